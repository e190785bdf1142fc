"""Laps: where the time of the loop went, by partition."""

import os
import time
from collections.abc import Callable

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


def process_age() -> float:
    """Seconds since this process started; since this import where the system does not say."""
    try:
        with open("/proc/self/stat") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])
        started = started_ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time() - _IMPORTED
