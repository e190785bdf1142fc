"""repeat(): measures the rate of a call, with burn-in, repeats, median and range."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

Clock = Callable[[], float]


class Rate(NamedTuple):
    """Rate per second: median, minimum and maximum over repeats, and total calls."""

    median: float
    least: float
    most: float
    calls: int

    @staticmethod
    def over(rates: Sequence[float], calls: int) -> "Rate":
        """Returns the Rate of the rates of several repeats, with calls in total."""
        return Rate(statistics.median(rates), min(rates), max(rates), calls)

    @property
    def spread(self) -> float:
        """Range of the repeats, relative to their median."""
        return (self.most - self.least) / self.median if self.median > 0 else 0.0

    @staticmethod
    def joined(rates: Sequence["Rate"]) -> "Rate":
        """Returns the rate over the repeats of all, with the mean of their medians."""
        return Rate(
            statistics.fmean(rate.median for rate in rates), min(rate.least for rate in rates),
            max(rate.most for rate in rates), sum(rate.calls for rate in rates),
        )  # fmt: skip

    def scaled(self, factor: float) -> "Rate":
        """Returns the rate in another unit, with factor items per call."""
        return Rate(self.median * factor, self.least * factor, self.most * factor, self.calls)


@dataclass(frozen=True)
class Effort:
    """Duration of a measurement: seconds of a repeat, repeats, and seconds of burn-in."""

    seconds: float = 0.2
    repeats: int = 5
    burn_in: float = 0.1

    @property
    def total(self) -> float:
        return self.burn_in + self.repeats * self.seconds


def repeat(
    call: Callable[[], int | None],
    effort: Effort,
    clock: Clock = time.perf_counter,
    finish: Callable[[], None] = lambda: None,
) -> Rate:
    """Measures items per second of call().

    Args:
        call: Returns its number of items. None: one.
        effort: Duration of the measurement.
        clock: Returns seconds, monotonic.
        finish: Waits for work that call() has launched. It is called before each reading of the
            clock, since launches alone would run ahead of the device.
    """
    stretch = _burn_in(call, effort.burn_in, clock, finish)
    rates, calls = [], 0
    for _ in range(effort.repeats):
        things, began = 0, clock()
        while True:
            # The clock is read once per stretch, so that short calls are not slowed by it.
            things += sum(_count(call()) for _ in range(stretch))
            calls += stretch
            finish()
            if (elapsed := clock() - began) >= effort.seconds:
                break
        rates.append(things / elapsed)
    return Rate.over(rates, calls)


def by_turns(
    calls: Mapping[str, Callable[[], int | None]],
    effort: Effort,
    clock: Clock = time.perf_counter,
    finish: Callable[[], None] = lambda: None,
) -> dict[str, Rate]:
    """As repeat(), for several calls in turns, so that noise affects all of them alike."""
    once = replace(effort, repeats=1)
    seen: dict[str, list[Rate]] = {name: [] for name in calls}
    for _ in range(effort.repeats):
        for name, call in calls.items():
            seen[name].append(repeat(call, once, clock, finish))
    return {
        name: Rate.over([rate.median for rate in rates], sum(rate.calls for rate in rates))
        for name, rates in seen.items()
    }


def _burn_in(call, seconds: float, clock: Clock, finish) -> int:
    """Calls until seconds have passed. Returns how many calls take about 0.05 s."""
    began = before = clock()
    stretch = 1
    while True:
        for _ in range(stretch):
            call()
        finish()
        now = clock()
        if now - began >= seconds:
            return max(1, int(stretch / max(now - before, 1e-9) / 20))
        before, stretch = now, 2 * stretch  # doubled, so that not every call is waited for


def _count(things: int | None) -> int:
    return 1 if things is None else things
