"""Budgets for benchmarks of training: burn-in, then a measured part, then the end of the run."""

from collections.abc import Callable
from dataclasses import replace

from fastdqn.bench.repeats import Clock, Effort
from fastdqn.training.loop import Run

# Learning starts after this many seconds of random steps, even before learning_starts: random steps
# are not measured, and environments may be slow.
MOST_RANDOM_SECONDS = 10.0
# Burn-in of updates, or of seconds since the first update, for compilation and allocations.
_BURN_IN_UPDATES, _BURN_IN_SECONDS = 20, 10.0


class _Start:
    """Detects the start of learning, and starts it early if random steps take too long."""

    def __init__(self, run: Run, clock: Clock):
        self._run, self._began = run, clock()

    def is_over(self, now: float, steps: int) -> bool:
        run = self._run
        if run.progress.updates:
            return True
        # Enough rows for an n-step window in each lane, and for a batch.
        windows = run.stream.num_lanes * (run.replay.n_steps + 1) + len(run.staging.host.index)
        late = now - self._began >= MOST_RANDOM_SECONDS and steps >= windows
        if late and run.cadence.learning_starts > steps:
            run.cadence = replace(run.cadence, learning_starts=steps)
        return False


class RepeatsBudget:
    """Budget with burn-in after the start of learning, then repeats, then the end.

    Attributes:
        step_rates: Steps per second of each repeat.
        turn_rates: Iterations of the loop per second of each repeat.
        turns: Iterations in all repeats.
        began: Time at the start of the first repeat.
        first_steps, first_updates: Steps and updates before it.
    """

    def __init__(self, run: Run, effort: Effort, clock: Clock):
        self._run, self._effort, self._clock = run, effort, clock
        self._start = _Start(run, clock)
        self._last = clock()
        self._steps = self._turns = 0
        self.began: float | None = None
        self.first_steps = self.first_updates = self.turns = 0
        self.step_rates: list[float] = []
        self.turn_rates: list[float] = []

    def spent(self, steps: int, episodes: int) -> bool:
        now = self._clock()
        if self.began is None:  # learning must have started, and burn-in must be over
            if not self._start.is_over(now, steps):
                self._last = now
            elif now - self._last >= self._effort.burn_in:
                self._begin(now, steps)
            return False
        self._turns += 1
        seconds = now - self._last
        if seconds >= self._effort.seconds:
            self.step_rates.append((steps - self._steps) / seconds)
            self.turn_rates.append(self._turns / seconds)
            self.turns += self._turns
            self._last, self._steps, self._turns = now, steps, 0
        return len(self.step_rates) >= self._effort.repeats

    def counted(self, steps: int) -> int:
        return steps

    def _begin(self, now: float, steps: int) -> None:
        self.began = self._last = now
        self._steps = self.first_steps = steps
        self.first_updates = self._run.progress.updates
        self._run.laps.restart()  # only the time from here on is counted


class TurnsBudget:
    """Budget with burn-in, then turns iterations of the loop between begin() and end()."""

    def __init__(
        self, run: Run, turns: int, begin: Callable[[], None], end: Callable[[], None], clock: Clock
    ):
        self._run, self._turns, self._begin, self._end = run, turns, begin, end
        self._clock, self._start = clock, _Start(run, clock)
        self._learned_at: float | None = None
        self._left: int | None = None

    def spent(self, steps: int, episodes: int) -> bool:
        if self._left is None:
            if self._is_warm(self._clock(), steps):
                self._left = self._turns
                self._begin()
            return False
        self._left -= 1
        if self._left == 0:
            self._end()
        return self._left == 0

    def counted(self, steps: int) -> int:
        return steps

    def _is_warm(self, now: float, steps: int) -> bool:
        if not self._start.is_over(now, steps):
            return False
        self._learned_at = now if self._learned_at is None else self._learned_at
        enough = self._run.progress.updates > _BURN_IN_UPDATES
        return enough or now - self._learned_at >= _BURN_IN_SECONDS
