"""train(): the training loop, which acts, learns, steps and stores in a fixed order."""

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
from fastdqn.ranks.one_rank import ONE_RANK, Ranks
from fastdqn.replay import Batch, Replay
from fastdqn.schedules import Budget, ticks
from fastdqn.state_dict import State
from fastdqn.timing import Laps
from fastdqn.training.best_weights import BestWeights
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
    """Receives every step after it was added to the replay."""

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
    def save_snapshot(self, steps: int) -> None: ...
    def warn(self, line: str) -> None: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


@dataclass(frozen=True)
class Cadence:
    """Intervals in environment steps."""

    learning_starts: int
    train_frequency: Fraction
    eval_frequency: int  # 0: never
    log_frequency: int
    snapshot_frequency: int | None = None

    def updates_due(self, before: int, now: int) -> int:
        """Returns the updates due for the steps from before to now; 0 before learning starts."""
        start = self.learning_starts
        return ticks(max(before, start), max(now, start), self.train_frequency)


_NO_HOOKS = Hooks()


@dataclass
class Run:
    """The components of one run, and its progress."""

    stream: EnvStream
    policy: Policy
    replay: Replay
    staging: Staging
    learner: Learner
    epsilon: Callable[[int, int], float | np.ndarray]
    budget: Budget
    cadence: Cadence
    recorder: LoopRecorder
    best_weights: BestWeights | None
    start: Step | None  # the stream's first step; None if it continues from a checkpoint
    followers: dict[str, Follower] = field(default_factory=dict)  # by name, for checkpoints
    hooks: Hooks = _NO_HOOKS
    feedback: PriorityFeedback | None = None  # only with a prioritized sampler
    progress: Progress = field(default_factory=Progress)
    laps: Laps = field(default_factory=Laps)
    checkpoints: LoopCheckpointer | None = None
    stop: Callable[[], bool] = lambda: False  # whether the run was asked to end
    wants_checkpoint: Callable[[], bool] = lambda: False  # whether a checkpoint was requested
    learning_rate: Callable[[int, int], float] | None = None  # None: constant
    turn: Callable[["Run"], str] = lambda run: turn(run)  # or offline_turn, actor_turn
    recorded: State | None = None  # state of the recorder before a stopped evaluation
    ranks: Ranks = ONE_RANK


def train(run: Run) -> str:
    """Runs until the budget is spent or the task is solved; returns the reason for the end.

    If run.stop() ended it, the run can be resumed from its state.

    Raises:
        DivergedError: The loss or a weight is not finite.
        NonFiniteError: A reward or observation is not finite.
    """
    try:
        return _train(run)
    finally:
        run.laps.leave()


def _train(run: Run) -> str:
    progress = run.progress
    progress.policy, progress.replay, progress.learner = run.policy, run.replay, run.learner
    run.laps.resume(run.laps.totals)
    report_restarts(run)  # those of the first reset
    if run.start is not None:
        _store(run, run.start)
        if run.checkpoints is not None:
            run.laps.enter("save")
            run.checkpoints.begin(run)
    if progress.ended == SPENT and not run.budget.spent(progress.steps, progress.episodes):
        progress.ended = ""  # the budget was increased since
    reason = progress.ended
    progress.closed &= bool(reason)
    if not reason and progress.owes_evaluation:
        reason = _evaluate(run)
    while not reason:
        reason = run.turn(run)
    if reason == INTERRUPTED:
        return reason
    if not progress.closed:
        _close(run, reason)
    if progress.owes_evaluation:
        reason = _evaluate(run) or reason
    if reason == SOLVED:
        progress.ended = SOLVED
    return reason


def _close(run: Run, reason: str) -> None:
    """Makes the remaining updates and records the end of the run; an evaluation is then due."""
    progress = run.progress
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    progress.before, progress.closed = progress.now, True
    progress.ended = reason if reason in (SOLVED, SPENT) else ""
    report(run, final=True)
    progress.owes_evaluation = run.best_weights is not None and reason != SOLVED


def turn(run: Run) -> str:
    """Acts, learns, steps and stores once; returns the reason for the end of the run, or ''."""
    stream, progress, enter = run.stream, run.progress, run.laps.enter
    enter("act")
    epsilon = run.epsilon(progress.steps, progress.episodes)
    lane_epsilon = epsilon[stream.lanes] if isinstance(epsilon, np.ndarray) else epsilon
    slots = run.replay.newest(stream.lanes)
    action = run.policy.act(stream.obs, lane_epsilon, stream.mask, stream.lanes, slots)
    enter("env")
    stream.send(action)  # async environments step while the learner works
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    enter("env")
    return _take(run, stream.recv())


def actor_turn(run: Run) -> str:
    """As turn(), with the next step of actors, which act and step elsewhere."""
    progress = run.progress
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    progress.before = progress.now  # a checkpoint after an error of recv() owes no updates
    run.laps.enter("actors")
    step: Step | None = run.stream.recv()
    return INTERRUPTED if step is None else _take(run, step)


def _take(run: Run, step: Step) -> str:
    """Stores and counts a step; returns the reason for the end of the run, or ''."""
    progress, enter = run.progress, run.laps.enter
    report_restarts(run)
    _store(run, step)
    steps, ended, reason = run.ranks.exchange(step, enter)
    progress.steps += steps
    progress.episodes += len(ended.ended_lanes)
    before, now = progress.now, run.budget.counted(progress.steps)
    progress.before, progress.now = before, now
    reason = SPENT if run.budget.spent(progress.steps, progress.episodes) else reason
    if len(ended.ended_lanes):
        enter("report")
        run.recorder.episodes(progress, ended)
    if run.hooks.on_step is not None:
        enter("hooks")
        wish = run.hooks.on_step(progress, step)
        if isinstance(wish, bool | np.bool_) and not wish:
            reason = run.ranks.end("stopped by on_step") or reason
    return reason or _after_turn(run, before, now)


def offline_turn(run: Run) -> str:
    """As turn(), with the updates that a step of all environments earns, and without that step."""
    progress = run.progress
    _learn(run, run.cadence.updates_due(progress.before, progress.now))
    progress.steps += run.stream.num_lanes
    before, now = progress.now, run.budget.counted(progress.steps)
    progress.before, progress.now = before, now
    reason = SPENT if run.budget.spent(progress.steps, progress.episodes) else ""
    return reason or _after_turn(run, before, now)


def _after_turn(run: Run, before: int, now: int) -> str:
    """Logs, evaluates and saves if due; returns the reason for the end of the run, or ''."""
    reason = ""
    if ticks(before, now, run.cadence.log_frequency):
        report(run)
    if run.best_weights and ticks(before, now, run.cadence.eval_frequency):
        reason = _evaluate(run)
    every = run.cadence.snapshot_frequency
    if every is not None and ticks(before, now, every):
        run.laps.enter("save")
        require_finite(run)
        if run.ranks.index == 0:
            run.recorder.save_snapshot(run.progress.steps)
    if not reason and run.stop():
        reason = INTERRUPTED
    if run.checkpoints is not None and run.wants_checkpoint():
        run.checkpoints.ask()
    if not reason and run.checkpoints and run.checkpoints.due(before, now, run.progress.steps):
        run.laps.enter("save")
        run.checkpoints.take(run)
    return reason


def report_restarts(run: Run) -> None:
    """Counts and reports restarted environments; each begins an episode in the replay."""
    lost = run.stream.env_calls.lost
    for error in lost:
        run.recorder.warn(f"{error}; its episode is truncated")
    run.progress.restarted_envs += len(lost)
    lost.clear()


def _store(run: Run, step: Step) -> None:
    run.laps.enter("store")
    run.replay.append(step)
    for follower in run.followers.values():
        follower.follow(step)


def _learn(run: Run, updates: int) -> None:
    """Makes updates, as many in one call as staging holds and target updates allow."""
    enter, staging, replay, learner = run.laps.enter, run.staging, run.replay, run.learner
    if updates and run.learning_rate is not None:
        enter("sample")
        learner.set_learning_rate(run.learning_rate(run.progress.steps, run.progress.episodes))
    while updates:
        enter("sample")
        count = learner.together(min(updates, staging.together))
        for host in staging.hosts(count):
            replay.sample(host, run.progress.steps)
        enter("upload")
        batches = staging.upload(count)
        enter("learn")
        priority = learner.update(*batches)
        if run.feedback is not None:
            enter("prioritize")
            run.feedback.send(priority)
            for index, arrived in run.feedback.arrived():
                replay.update_priorities(index, arrived)
        if run.hooks.on_update is not None:
            enter("hooks")
            _call_on_update(run, batches, priority)
        updates -= count
        run.progress.updates = learner.updates


def _call_on_update(run: Run, batches: tuple[Batch, ...], priority: Any) -> None:
    """Calls on_update once for each update of a call, after the whole call.

    It receives copies, since it may keep them, and the next updates overwrite this memory.
    """
    assert run.hooks.on_update is not None
    size, priority = len(batches[0].action), priority.clone()
    for i, batch in enumerate(batches):
        run.progress.updates += 1
        seen = run.learner.observed(batch)
        copy = Batch(*(None if each is None else each.clone() for each in seen))
        run.hooks.on_update(run.progress, copy, priority[i * size : (i + 1) * size])


def _evaluate(run: Run) -> str:
    """Evaluates; returns the reason for the end of the run, solved or interrupted, or ''."""
    assert run.best_weights is not None
    run.laps.enter("evaluate")
    require_finite(run)  # diverged weights are never the best
    run.recorded, run.progress.owes_evaluation = run.recorder.state(), True
    try:
        solved = run.best_weights.update(run.progress.steps)
    except Stopped:
        return INTERRUPTED
    run.recorded, run.progress.owes_evaluation = None, False
    if run.best_weights.is_best:
        run.laps.enter("save")
        run.recorder.save_best()
    return SOLVED if solved else ""


def report(run: Run, final: bool = False) -> None:
    """Writes a row of metrics; raises DivergedError if the loss or a weight is not finite."""
    run.laps.enter("report")
    require_finite(run)
    epsilon = float(np.mean(run.epsilon(run.progress.steps, run.progress.episodes)))
    report = run.learner.report()
    epsilon, loss, q_value = run.ranks.mean(epsilon, report.loss, report.q_value)
    report = report._replace(loss=loss, q_value=q_value)
    run.recorder.report(run.progress, epsilon, report, run.laps.totals, final)


def require_finite(run: Run) -> None:
    """Raises DivergedError if the loss or a weight is not finite.

    The loss is summed on the device and checked only here, not after every update. Ranks compare
    their weights here, too.
    """
    (loss,) = run.ranks.mean(run.learner.loss_total())
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} at update {run.progress.updates}, step {run.progress.steps}. "
            "Try a smaller --learning-rate or --max-grad-norm, or --loss huber for scalar values"
        )
    run.ranks.require_equal(lambda: run.learner.checksum(), "the weights")  # a table has none
    weight = run.learner.largest_weight()  # may not be finite although the last loss was
    if not math.isfinite(weight):
        raise DivergedError(
            f"a weight is {weight} at update {run.progress.updates}, step {run.progress.steps}. "
            "Try a smaller --learning-rate or --max-grad-norm"
        )
