"""Repeat: how often something can be done in a second: burn-in, repeats, median and spread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

Clock = Callable[[], float]


class Rate(NamedTuple):
    """Things done per second: median, least and most over the repeats; how many calls in all."""

    median: float
    least: float
    most: float
    calls: int

    @staticmethod
    def over(rates: Sequence[float], calls: int) -> "Rate":
        """Of the rates of several repeats, which made so many calls in all."""
        return Rate(statistics.median(rates), min(rates), max(rates), calls)

    def scaled(self, factor: float) -> "Rate":
        """The same in another unit: of items, where a call handles `factor` of them."""
        return Rate(self.median * factor, self.least * factor, self.most * factor, self.calls)


@dataclass(frozen=True)
class Effort:
    """How long a figure is measured: seconds of one repeat, repeats, seconds of burn-in before."""

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
    """Measure what call() gets done per second.

    call    returns how many things it did; None: one
    clock   seconds, monotone
    finish  waits until what call() set going is over; the clock is read after it alone, or calls
            that only launch work would run ahead of it by minutes
    """
    stretch = _burn_in(call, effort.burn_in, clock, finish)
    rates, calls = [], 0
    for _ in range(effort.repeats):
        things, began = 0, clock()
        while True:
            # The clock is read once a stretch: a call of a microsecond must not be timed with it.
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
    """As repeat(), of several things repeat by repeat: their ratios hold on a noisy machine."""
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
    """Call until seconds are over; returns how many calls fill about a twentieth of a second."""
    began = before = clock()
    stretch = 1
    while True:
        for _ in range(stretch):
            call()
        finish()
        now = clock()
        if now - began >= seconds:
            return max(1, int(stretch / max(now - before, 1e-9) / 20))
        before, stretch = now, 2 * stretch  # one by one, each call would be waited for


def _count(things: int | None) -> int:
    return 1 if things is None else things
