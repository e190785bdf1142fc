"""Laps: the time of the loop, partitioned into phases."""

import os
import time
from collections.abc import Callable
from typing import Protocol

_IMPORTED = time.time()


class Ranges(Protocol):
    """Marks phases in the trace of a profiler."""

    def enter(self, name: str) -> None:
        """Ends the range of the current phase, if any, and begins the next."""
        ...

    def leave(self) -> None:
        """Ends the range of the current phase, if any."""
        ...


class Laps:
    """Partitions the time into phases, so that all phases add up to the total time.

    enter() begins a phase, which lasts until the next one begins. A caller that knows a phase at
    its end only uses lap() instead.

    Attributes:
        totals: Seconds of each phase, without the phase that has not ended.
        ranges: Marks the phases for a profiler. None: no profiler.

    Args:
        clock: Monotonic clock in seconds. A benchmark may pass one that synchronizes the device.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.totals: dict[str, float] = {}
        self.ranges: Ranges | None = None
        self.restart()

    def restart(self) -> None:
        """Clears all phases and starts the clock. The next phase begins here."""
        self._last = self._clock()
        self._phase: str | None = None
        self.totals.clear()

    def resume(self, totals: dict[str, float]) -> None:
        """Continues from the totals of an earlier run, without the time in between."""
        totals = dict(totals)
        self.restart()
        self.totals.update(totals)

    def enter(self, name: str) -> None:
        """Ends the current phase and begins the next. Time before the first phase belongs to it."""
        if name == self._phase:
            return
        self.lap(self._phase or name)
        self._phase = name
        if self.ranges is not None:
            self.ranges.enter(name)

    def leave(self) -> None:
        """Ends the current phase, if any."""
        if self._phase is not None:
            self.lap(self._phase)
            self._phase = None
        if self.ranges is not None:
            self.ranges.leave()

    def lap(self, name: str) -> None:
        """Adds the time since the last reading of the clock to a phase."""
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
