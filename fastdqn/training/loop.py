"""The training loop in one process: act, learn, step, store, in one fixed order."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from fastdqn.envs import EnvStream, Step
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.learner import Learner, Report
from fastdqn.learning.policy import Policy
from fastdqn.learning.priority_feedback import PriorityFeedback
from fastdqn.replay import Batch, Replay
from fastdqn.schedules import Budget, ticks
from fastdqn.state_dict import State
from fastdqn.timing import Laps
from fastdqn.training.best_weights import Judge
from fastdqn.training.callbacks import Hooks
from fastdqn.training.evaluation import Stopped
from fastdqn.training.progress import INTERRUPTED, SOLVED, SPENT, Progress


class DivergedError(ArithmeticError):
    """The loss or a weight became NaN or infinite."""


class LoopCheckpointer(Protocol):
    def begin(self, run: "Run") -> None: ...
    def ask(self) -> None: ...
    def due(self, before: int, now: int, steps: int) -> bool: ...
    def take(self, run: "Run") -> None: ...
    def finish(self, run: "Run") -> None: ...


class Follower(Protocol):
    """Looks at every delivery, once it is in the replay."""

    def follow(self, step: Step) -> None: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


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
    def warn(self, line: str) -> None: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


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
    start: Step | None  # the stream's first delivery; None where it goes on from a checkpoint
    followers: dict[str, Follower] = field(default_factory=dict)  # by name, for checkpoints
    hooks: Hooks = _NO_HOOKS
    returns: PriorityFeedback | None = None  # of priorities, where the replay wants any
    progress: Progress = field(default_factory=Progress)
    laps: Laps = field(default_factory=Laps)
    checkpoints: LoopCheckpointer | None = None
    stop: Callable[[], bool] = lambda: False  # whether someone asked the run to end
    wants_checkpoint: Callable[[], bool] = lambda: False  # ... or for a checkpoint, since the last
    recorded: State | None = None  # the recorder's, from before an evaluation that was stopped


def train(run: Run) -> str:
    """Run until the budget is spent or the judge is satisfied; returns why it ended.

    Where it ended because run.stop() asked for it, the state is one to go on from.
    Raises DivergedError where the loss is not finite, NonFiniteError where an environment's
    numbers are not, naming where.
    """
    progress = run.progress
    run.laps.resume(run.laps.totals)
    tell_lost(run)  # in the first reset
    if run.start is not None:
        _store(run, run.start)
        if run.checkpoints is not None:
            run.checkpoints.begin(run)
            run.laps.lap("save")
    if progress.ended == SPENT and not run.budget.spent(progress.steps, progress.episodes):
        progress.ended = ""  # a larger one has come since
    reason = progress.ended
    progress.closed &= bool(reason)
    if not reason and progress.owes_evaluation:
        reason = _judge(run)
    while not reason:
        reason = _turn(run)
    if reason == INTERRUPTED:
        return reason
    if not progress.closed:
        _close(run, reason)
    if progress.owes_evaluation:
        reason = _judge(run) or reason
    if reason == SOLVED:
        progress.ended = SOLVED
    return reason


def _close(run: Run, reason: str) -> None:
    """Make the updates still due, and note how the run ended; a last evaluation is owed then."""
    progress = run.progress
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    progress.before, progress.closed = progress.now, True
    progress.ended = reason if reason in (SOLVED, SPENT) else ""
    report(run, final=True)
    progress.owes_evaluation = run.judge is not None and reason != SOLVED


def _turn(run: Run) -> str:
    """Act, learn, step, store, and what falls due after that; returns why the run ends, or ''."""
    stream, progress, lap = run.stream, run.progress, run.laps.lap
    epsilon = run.epsilon(progress.steps, progress.episodes)
    lane_epsilon = epsilon[stream.lanes] if isinstance(epsilon, np.ndarray) else epsilon
    action = run.policy.act(stream.obs, lane_epsilon, stream.mask, stream.lanes)
    lap("act")
    stream.send(action)  # async environments step while the learner works
    lap("env")
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    step = stream.recv()
    tell_lost(run)
    lap("env")
    _store(run, step)
    progress.steps += len(step.lanes)
    progress.episodes += len(step.ended_lanes)
    before, now = progress.now, run.budget.counted(progress.steps)
    progress.before, progress.now = before, now
    reason = SPENT if run.budget.spent(progress.steps, progress.episodes) else ""
    if len(step.ended_lanes):
        run.recorder.episodes(progress, step)
        lap("report")
    if run.hooks.on_step is not None:
        wish = run.hooks.on_step(progress, step)
        if isinstance(wish, bool | np.bool_) and not wish:
            reason = "stopped by on_step"
        lap("hooks")
    return reason or _after_turn(run, before, now)


def _after_turn(run: Run, before: int, now: int) -> str:
    """Metrics, evaluation, checkpoint: each by ticks; returns why the run ends, or ''."""
    reason = ""
    if ticks(before, now, run.cadence.log_frequency):
        report(run)
    if run.judge and ticks(before, now, run.cadence.eval_frequency):
        reason = _judge(run)
    if not reason and run.stop():
        reason = INTERRUPTED
    if run.checkpoints is not None and run.wants_checkpoint():
        run.checkpoints.ask()
    if not reason and run.checkpoints and run.checkpoints.due(before, now, run.progress.steps):
        run.checkpoints.take(run)
        run.laps.lap("save")
    return reason


def tell_lost(run: Run) -> None:
    """Count and tell the lanes that were restarted: to the replay each is a start."""
    lost = run.stream.env_calls.lost
    for error in lost:
        run.recorder.warn(f"{error}; its episode ends as truncated")
    run.progress.restarted_envs += len(lost)
    lost.clear()


def _store(run: Run, step: Step) -> None:
    run.replay.append(step)
    for follower in run.followers.values():
        follower.follow(step)
    run.laps.lap("store")


def _learn(run: Run, updates: int) -> None:
    """Make updates, as many at once as the staging holds; the target is copied between calls."""
    lap, staging, replay, learner = run.laps.lap, run.staging, run.replay, run.learner
    while updates:
        count = learner.together(min(updates, staging.together))
        for host in staging.hosts(count):
            replay.sample(host, run.progress.steps)
        lap("sample")
        batches = staging.upload(count)
        lap("upload")
        priority = learner.update(*batches)
        lap("learn")
        if run.returns is not None:
            run.returns.send(priority)
            for index, arrived in run.returns.arrived():
                replay.update_priorities(index, arrived)
            lap("prioritize")
        if run.hooks.on_update is not None:
            _tell_updates(run, batches, priority)
            lap("hooks")
        updates -= count
        run.progress.updates = learner.updates


def _tell_updates(run: Run, batches: tuple[Batch, ...], priority: Any) -> None:
    """Call the hook once for each update of a call, all of which are made by then."""
    assert run.hooks.on_update is not None
    size = len(batches[0].action)
    for i, batch in enumerate(batches):
        run.progress.updates += 1
        run.hooks.on_update(run.progress, batch, priority[i * size : (i + 1) * size])


def _judge(run: Run) -> str:
    """Evaluate; returns why the run ends: solved, interrupted, or '' if it does not."""
    assert run.judge is not None
    require_finite(run)  # weights of a diverged run are never the best
    run.recorded, run.progress.owes_evaluation = run.recorder.state(), True
    try:
        solved = run.judge.judge(run.progress.steps)
    except Stopped:
        return INTERRUPTED
    finally:
        run.laps.lap("evaluate")
    run.recorded, run.progress.owes_evaluation = None, False
    if run.judge.is_best:
        run.recorder.save_best()
        run.laps.lap("save")
    return SOLVED if solved else ""


def report(run: Run, final: bool = False) -> None:
    """Write a row of metrics. Raises DivergedError where the loss is not finite."""
    require_finite(run)
    epsilon = float(np.mean(run.epsilon(run.progress.steps, run.progress.episodes)))
    run.recorder.report(run.progress, epsilon, run.learner.report(), run.laps.totals, final)
    run.laps.lap("report")


def require_finite(run: Run) -> None:
    """The loss is accumulated on the device and looked at here, not at every update.

    Raises DivergedError.
    """
    loss = run.learner.loss_total()
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} by update {run.progress.updates}, step {run.progress.steps}: "
            "a smaller --learning-rate or --max-grad-norm may help, or --loss huber for scalars"
        )
    weight = run.learner.largest_weight()  # after a last loss that still was finite
    if not math.isfinite(weight):
        raise DivergedError(
            f"a weight is {weight} by update {run.progress.updates}, step {run.progress.steps}: "
            "a smaller --learning-rate or --max-grad-norm may help"
        )
