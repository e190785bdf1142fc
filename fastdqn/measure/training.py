"""Training end to end: steps per second of the whole loop, and where they went, by two clocks."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from gymnasium.vector import VectorEnv

from fastdqn import build
from fastdqn.config import Config
from fastdqn.engine import local
from fastdqn.measure.figures import Figure
from fastdqn.measure.learning import waiter
from fastdqn.measure.repeat import Clock, Effort, Rate
from fastdqn.measure.synthetic import fill_replay
from fastdqn.record.console import Silent
from fastdqn.session import Session

# Steps before learning starts, at the most: they are not what is measured.
_MOST_RANDOM_STEPS = 10_000
# Updates after which everything has been called, and has its memory.
_BURN_IN_UPDATES = 20


class Trained(NamedTuple):
    """figure  steps/s of the loop
    phases  seconds of each phase, which add up to seconds; steps, updates  made in them
    warm_up_seconds, warm_up_steps  before anything was measured: kernels, random play, burn-in
    """

    figure: Figure
    phases: dict[str, float]
    seconds: float
    steps: int
    updates: int
    warm_up_seconds: float
    warm_up_steps: int


class _MeasuredBudget:
    """In place of a run's budget: burn-in after learning started, then repeats, then the end."""

    def __init__(self, run: local.Run, effort: Effort, clock: Clock):
        self._run, self._effort, self._clock = run, effort, clock
        self._began = self._last = clock()
        self._warm_at: float | None = None
        self.warm_up_steps = self.first_update = 0
        self.warm_up_seconds = 0.0
        self._steps = 0
        self.rates: list[float] = []

    def spent(self, steps: int, episodes: int) -> bool:
        now = self._clock()
        if self._warm_at is None:  # learning must have begun, and gone on for a while
            if self._run.progress.updates < 1:
                self._last = now
            elif now - self._last >= self._effort.burn_in:
                self._begin(now, steps)
            return False
        if now - self._last >= self._effort.seconds:
            self.rates.append((steps - self._steps) / (now - self._last))
            self._last, self._steps = now, steps
        return len(self.rates) >= self._effort.repeats

    def counted(self, steps: int) -> int:
        return steps

    def _begin(self, now: float, steps: int) -> None:
        self._warm_at = self._last = now
        self._steps = self.warm_up_steps = steps
        self.warm_up_seconds = now - self._began
        self.first_update = self._run.progress.updates
        self._run.laps.restart()  # all that follows is billed, and nothing before


def measure_training(
    config: Config,
    effort: Effort,
    synchronised: bool = False,
    clock: Clock = time.perf_counter,
    envs: VectorEnv | None = None,
    filled: bool = False,
) -> Trained:
    """Train as `fastdqn train` does, without evaluations, in a folder that is thrown away.

    synchronised  wait for the device before each look at the clock: every phase is billed its own
                  work, and the whole is slower; else phases are billed what they waited for
    envs  ready environments in place of config.env_id
    filled  begin with a replay full of random steps: a large one is slower than an empty one
    """
    with _short_session(config, synchronised, clock, envs) as session:
        if filled:
            run = session.run
            facts = run.stream.facts._replace(has_masks=run.stream.mask is not None)
            fill_replay(run.replay, facts, run.replay.ring.rows)
        budget = _MeasuredBudget(session.run, effort, clock)
        session.run.budget = budget  # pyright: ignore[reportAttributeAccessIssue]
        local.train(session.run)
        laps = session.run.laps
        steps = session.run.progress.steps - budget.warm_up_steps
        rate = Rate.over(budget.rates, steps)
        of = {
            "num_envs": config.num_envs, "batch_size": config.batch_size,
            "samples_per_step": float(config.batch_size / config.train_frequency),
            "clock": "synchronised" if synchronised else "plain",
        }  # fmt: skip
        return Trained(
            Figure("train", "train_steps_per_second", rate, of), dict(laps.totals),
            laps.elapsed, steps, session.run.progress.updates - budget.first_update,
            budget.warm_up_seconds, budget.warm_up_steps,
        )  # fmt: skip


def run_turns(
    config: Config, turns: int, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """Train until learning has begun, then so many turns of the loop between begin() and end()."""

    class Turns:
        left: int | None = None

        def spent(self, steps: int, episodes: int) -> bool:
            if self.left is None:
                if session.run.progress.updates > _BURN_IN_UPDATES:
                    self.left = turns
                    begin()
            else:
                self.left -= 1
                if self.left == 0:
                    end()
            return self.left == 0

        def counted(self, steps: int) -> int:
            return steps

    with _short_session(config) as session:
        session.run.budget = Turns()  # pyright: ignore[reportAttributeAccessIssue]
        local.train(session.run)


@contextlib.contextmanager
def _short_session(
    config: Config,
    synchronised: bool = False,
    clock: Clock = time.perf_counter,
    envs: VectorEnv | None = None,
) -> Iterator[Session]:
    """A run without evaluations, in a folder that is thrown away."""
    wait = waiter(torch.device(config.device)) if synchronised else lambda: None

    def ticking() -> float:
        wait()
        return clock()

    with tempfile.TemporaryDirectory() as folder:
        config = config.replace(
            run_dir=str(Path(folder, "run")), eval_frequency=0, stop_at_return=None,
            tensorboard=False, total_timesteps=config.total_timesteps or 100_000,
            total_episodes=None, learning_starts=min(config.learning_starts, _MOST_RANDOM_STEPS),
        )  # fmt: skip
        session = build.build(config, lambda _: Silent(), envs, clock=ticking)
        try:
            yield session
        finally:
            session.close()
