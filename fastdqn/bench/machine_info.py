"""Machine, package versions and commit, for the header of measurements."""

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
    """Returns machine, versions, threads and commit, for the header of a file.

    Args:
        device: Name of the device.
        threads: Threads of torch, or of the fused update, during the measurement. None: neither.
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


# Environment variables that change the speed of NumPy, Numba or torch.
_SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Returns processor, cores (all, and usable by this process), system and Python."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def load_average() -> list[float] | None:
    """Returns the load average of the machine over 1, 5 and 15 minutes, or None if unknown."""
    try:
        return [round(each, 2) for each in os.getloadavg()]
    except OSError:
        return None


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets the number of torch threads in a block."""
    assert count is not None, "a resolved config has a number of threads"
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def commit(package: Path = _PACKAGE) -> str | None:
    """Returns the commit of the checkout of the package, with '-dirty' if files differ.

    None for an installed package, which may lie inside a checkout of another project.
    """
    if _git(package, "rev-parse", "--show-prefix") != f"{package.name}/":
        return None
    if _git(package, "ls-files", "__init__.py") != "__init__.py":
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    # Variables set by a git hook would select another repository.
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


def machine_line() -> str:
    """Returns the load average and the number of usable cores, for tables."""
    load = load_average()
    shown = "unknown" if load is None else f"{load[0]:.2f} (1 minute)"
    return f"load average {shown}, {usable_cores()} usable cores"
