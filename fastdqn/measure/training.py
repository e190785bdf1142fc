"""Training end to end: steps per second of the whole loop, and where they went, by two clocks."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from fastdqn import build
from fastdqn.config import Config
from fastdqn.engine import local
from fastdqn.measure.figures import Figure
from fastdqn.measure.learning import waiter
from fastdqn.measure.repeat import Clock, Effort, Rate
from fastdqn.record.console import Silent


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
    envs=None,
) -> Trained:
    """Train as `fastdqn train` does, without evaluations, in a folder that is thrown away.

    synchronised  wait for the device before each look at the clock: every phase is billed its own
                  work, and the whole is slower; else phases are billed what they waited for
    envs  ready environments in place of config.env_id
    """
    with tempfile.TemporaryDirectory() as folder:
        config = config.replace(
            run_dir=str(Path(folder, "run")), eval_frequency=0, tensorboard=False,
            total_episodes=None,
        )  # fmt: skip
        wait = waiter(torch.device(config.device)) if synchronised else lambda: None

        def ticking() -> float:
            wait()
            return clock()

        session = build.build(config, lambda _: Silent(), envs, clock=ticking)
        try:
            budget = _MeasuredBudget(session.run, effort, clock)
            session.run.budget = budget  # pyright: ignore[reportAttributeAccessIssue]
            local.train(session.run)
            laps = session.run.laps
            steps = session.run.progress.steps - budget.warm_up_steps
            rates = sorted(budget.rates)
            rate = Rate(rates[len(rates) // 2], rates[0], rates[-1], steps)
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
        finally:
            session.close()
