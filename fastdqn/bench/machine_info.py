"""The machine, the versions and the commit that a figure belongs to."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastdqn.files.run_folder import processor
from fastdqn.system.cpu_limits import usable_cores

_PACKAGES = (
    "fastdqn", "torch", "gymnasium", "numpy", "numba", "envpool", "ale-py", "stable-baselines3",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[1]


def describe_machine(device: str, threads: int | None) -> dict[str, Any]:
    """Machine, versions, threads and commit, as the header of a file of figures.

    threads  of torch, or of the fused update, while it was measured; None where neither was
    """
    on_gpu = device.startswith("cuda")
    return {
        **machine(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": threads,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": commit(),
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


# What changes the speed of NumPy, Numba or torch from outside.
_SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, cores (all, and those that this process may use), system and Python."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within, torch has so many threads."""
    assert count is not None, "a resolved config has a number of threads"
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def commit(package: Path = _PACKAGE) -> str | None:
    """Of the checkout that the package is run from, '-dirty' behind it where files differ from it.

    None where it is none of its own: installed, maybe below a checkout of something else.
    """
    if _git(package, "rev-parse", "--show-prefix") != f"{package.name}/":
        return None
    if _git(package, "ls-files", "__init__.py") != "__init__.py":
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    # A hook's variables would name another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    asked = ["git", "-C", str(folder), *words]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=5, env=clean)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
