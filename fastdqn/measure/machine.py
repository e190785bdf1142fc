"""The machine and the versions that a figure belongs to."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastdqn.record.folder import processor
from fastdqn.timing import usable_cores

_PACKAGES = ("fastdqn", "torch", "gymnasium", "numpy", "numba", "envpool", "ale-py")


def describe_machine(device: str) -> dict[str, Any]:
    """Machine, versions, threads and commit, as the header of a file of figures."""
    on_gpu = device.startswith("cuda")
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _commit(),
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


# What changes the speed of NumPy, Numba or torch from outside.
_SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this package is run from, if it is one."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
