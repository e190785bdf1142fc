"""Laps: where the time of the loop went, by partition."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from fastdqn.cgroups import ROOT, groups, text_of

_IMPORTED = time.time()


class Laps:
    """Bills the time since the last lap to a name, so that all bills add up to the time passed.

    clock  seconds, monotone; a benchmark may hand in one that waits for the device first
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.totals: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Forget all laps; the time begins now."""
        self._last = self._clock()
        self.totals.clear()

    def resume(self, totals: dict[str, float]) -> None:
        """Go on where other laps ended: their time counts, the time between does not."""
        totals = dict(totals)
        self.restart()
        self.totals.update(totals)

    def lap(self, name: str) -> None:
        now = self._clock()
        self.totals[name] = self.totals.get(name, 0.0) + now - self._last
        self._last = now


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


def process_age() -> float:
    """Seconds since this process started; since this import where the system does not say."""
    try:
        with open("/proc/self/stat") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])
        started = started_ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time() - _IMPORTED
