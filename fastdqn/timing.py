"""Laps: the time of the loop, partitioned into phases."""

import os
import time
from collections.abc import Callable

_IMPORTED = time.time()


class Laps:
    """Adds the time since the last lap to a phase, so that all phases add up to the total time.

    Args:
        clock: Monotonic clock in seconds. A benchmark may pass one that synchronizes the device.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.totals: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Clears all phases and starts the clock."""
        self._last = self._clock()
        self.totals.clear()

    def resume(self, totals: dict[str, float]) -> None:
        """Continues from the totals of an earlier run, without the time in between."""
        totals = dict(totals)
        self.restart()
        self.totals.update(totals)

    def lap(self, name: str) -> None:
        now = self._clock()
        self.totals[name] = self.totals.get(name, 0.0) + now - self._last
        self._last = now


def process_age() -> float:
    """Returns seconds since the process started, or since this import if that is unknown."""
    try:
        with open("/proc/self/stat") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])
        started = started_ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time() - _IMPORTED
