"""The training loop in one process: act, learn, step, store, in one fixed order."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdqn.acting import EnvStream, Step
from fastdqn.engine.evaluate import Evaluation
from fastdqn.engine.judge import Judge
from fastdqn.engine.normalize import Normalizer
from fastdqn.learning.learner import Learner, Report
from fastdqn.learning.policy import Policy
from fastdqn.learning.staging import Staging
from fastdqn.replay import Batch, Replay
from fastdqn.schedules import Budget, ticks
from fastdqn.timing import Laps


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite."""


@dataclass
class Progress:
    """What has been done so far: environment steps, finished episodes, updates."""

    steps: int = 0
    episodes: int = 0
    updates: int = 0


class LoopRecorder(Protocol):
    def episodes(self, progress: Progress, step: Step) -> None: ...
    def report(
        self,
        progress: Progress,
        epsilon: float,
        report: Report,
        totals: dict[str, float],
        final: bool,
    ) -> None: ...
    def save_best(self) -> None: ...


@dataclass(frozen=True)
class Cadence:
    """When things fall due, in environment steps."""

    learning_starts: int
    train_frequency: Fraction
    eval_frequency: int  # 0: never
    log_frequency: int

    def updates_due(self, before: int, now: int) -> int:
        """Updates that the steps from before to now earn; none before learning starts."""
        start = self.learning_starts
        return ticks(max(before, start), max(now, start), self.train_frequency)


class Hooks(NamedTuple):
    """Calls of the user's own; what they take is lent, and overwritten afterwards.

    on_step        (progress, Step) after each delivery; returning False ends the run
    on_update      (progress, device Batch, priorities [B] as a tensor) after each update
    on_evaluation  (steps, kind, Evaluation) after each evaluation: eval, confirm or final
    """

    on_step: Callable[[Progress, Step], Any] | None = None
    on_update: Callable[[Progress, Batch, Any], Any] | None = None
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None


_NO_HOOKS = Hooks()


@dataclass
class Run:
    """The parts of one run, and its progress."""

    stream: EnvStream
    policy: Policy
    replay: Replay
    staging: Staging
    learner: Learner
    epsilon: Callable[[int, int], float | np.ndarray]
    budget: Budget
    cadence: Cadence
    recorder: LoopRecorder
    judge: Judge | None
    start: Step  # the stream's first delivery
    normalizer: Normalizer | None = None
    hooks: Hooks = _NO_HOOKS
    progress: Progress = field(default_factory=Progress)
    laps: Laps = field(default_factory=Laps)


def train(run: Run) -> str:
    """Run until the budget is spent or the judge is satisfied; returns why it ended.

    Raises DivergedError where the loss is not finite, NonFiniteError where an environment's
    numbers are not, naming where.
    """
    stream, progress = run.stream, run.progress
    run.laps.restart()
    lap = run.laps.lap
    before = now = 0
    reason = ""
    _store(run, run.start)
    while not reason:
        epsilon = run.epsilon(progress.steps, progress.episodes)
        lane_epsilon = epsilon[stream.lanes] if isinstance(epsilon, np.ndarray) else epsilon
        action = run.policy.act(stream.obs, lane_epsilon, stream.mask)
        lap("act")
        stream.send(action)  # async environments step while the learner works
        lap("env")
        _learn(run, run.cadence.updates_due(before, now))
        step = stream.recv()
        lap("env")
        _store(run, step)
        progress.steps += len(step.lanes)
        progress.episodes += len(step.ended_lanes)
        before, now = now, run.budget.counted(progress.steps)
        if run.budget.spent(progress.steps, progress.episodes):
            reason = "budget spent"
        if len(step.ended_lanes):
            run.recorder.episodes(progress, step)
            lap("report")
        if run.hooks.on_step is not None:
            wish = run.hooks.on_step(progress, step)
            if isinstance(wish, bool | np.bool_) and not wish:
                reason = "stopped by on_step"
            lap("hooks")
        if not reason and ticks(before, now, run.cadence.log_frequency):
            report(run)
        if not reason and run.judge and ticks(before, now, run.cadence.eval_frequency):
            reason = "solved" if _judge(run, run.judge) else ""
    _learn(run, run.cadence.updates_due(before, now))
    report(run, final=True)
    if run.judge is not None and reason != "solved" and _judge(run, run.judge):
        reason = "solved"
    return reason


def _store(run: Run, step: Step) -> None:
    run.replay.append(step)
    if run.normalizer is not None:
        run.normalizer.follow(step)
    run.laps.lap("store")


def _learn(run: Run, updates: int) -> None:
    lap, staging, replay = run.laps.lap, run.staging, run.replay
    for _ in range(updates):
        replay.sample(staging.host)
        lap("sample")
        staging.upload()
        lap("upload")
        priority = run.learner.update(staging.device)
        lap("learn")
        if replay.wants_priorities:
            replay.update_priorities(staging.host.index, staging.download(priority))
            lap("prioritize")
        run.progress.updates = run.learner.updates
        if run.hooks.on_update is not None:
            run.hooks.on_update(run.progress, staging.device, priority)
            lap("hooks")


def _judge(run: Run, judge: Judge) -> bool:
    _require_finite(run)  # weights of a diverged run are never the best
    solved = judge.judge(run.progress.steps)
    run.laps.lap("evaluate")
    if judge.is_best:
        run.recorder.save_best()
        run.laps.lap("save")
    return solved


def report(run: Run, final: bool = False) -> None:
    """Write a row of metrics. Raises DivergedError where the loss is not finite."""
    _require_finite(run)
    epsilon = float(np.mean(run.epsilon(run.progress.steps, run.progress.episodes)))
    run.recorder.report(run.progress, epsilon, run.learner.report(), run.laps.totals, final)
    run.laps.lap("report")


def _require_finite(run: Run) -> None:
    """The loss is accumulated on the device and looked at here, not at every update."""
    loss = run.learner.loss_total()
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} by update {run.progress.updates}, step {run.progress.steps}: "
            "a smaller --learning-rate, --loss huber or a --max-grad-norm may help"
        )
