"""CPU cores and threads that this process may use, container limits included."""

import os
from pathlib import Path

from fastdqn.system.cgroups import ROOT, groups, text_of


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those it may run on, and what a container's quota of
    processor time comes to, rounded down, since a thread that gets a part of a core delays those
    that wait for it; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of processor time that the control groups allow; None: no limit."""
    return min(_quotas(root), default=None)


def thread_limit() -> int | None:
    """OMP_NUM_THREADS, the usual limit of a process's computing threads; None: not set."""
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
