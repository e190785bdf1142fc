"""CPU cores and threads that this process may use, container limits included."""

import os
from pathlib import Path

from fastdqn.system.cgroups import ROOT, groups, text_of


def usable_cores(root: Path = ROOT) -> int:
    """Returns the cores that this process may use, at least 1.

    The minimum of its CPU affinity and the container's CPU quota, rounded down: a thread on a
    fraction of a core delays all that wait for it.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Returns the CPU quota of the control groups in cores, or None without a limit."""
    return min(_quotas(root), default=None)


def thread_limit() -> int | None:
    """Returns OMP_NUM_THREADS, or None if it is not set."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _quotas(root: Path) -> list[float]:
    quotas = []
    for version, folder in groups("cpu", root):
        if version == 2:  # "max 100000", or "150000 100000": microseconds in each period
            numbers = text_of(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            numbers = [text_of(folder / name).strip() for name in names]
        if len(numbers) == 2 and all(each.isdecimal() and int(each) > 0 for each in numbers):
            quotas.append(int(numbers[0]) / int(numbers[1]))
    return quotas
