"""Repeat: how often something can be done in a second: burn-in, repeats, median and spread."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    finish  waits until what call() set going is over, so that a repeat ends when its work does
    """
    stretch = _burn_in(call, effort.burn_in, clock, finish)
    rates, calls = [], 0
    for _ in range(effort.repeats):
        things, began = 0, clock()
        while True:
            # The clock is read once a stretch: a call of a microsecond must not be timed with it.
            things += sum(_count(call()) for _ in range(stretch))
            calls += stretch
            if clock() - began >= effort.seconds:
                break
        finish()
        rates.append(things / (clock() - began))
    return Rate.over(rates, calls)


def _burn_in(call, seconds: float, clock: Clock, finish) -> int:
    """Call until seconds are over; returns how many calls fill about a twentieth of a second."""
    began, calls = clock(), 0
    while True:
        call()
        calls += 1
        if clock() - began >= seconds:
            break
    finish()
    return max(1, int(calls / max(clock() - began, 1e-9) / 20))


def _count(things: int | None) -> int:
    return 1 if things is None else things
