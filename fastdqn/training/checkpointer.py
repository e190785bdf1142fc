"""Checkpointer: collects the state of a run and decides when to save it."""

from collections.abc import Callable, Container, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from fastdqn.replay import Replay, Rows
from fastdqn.schedules import ticks
from fastdqn.state_dict import RowLayout, State, StateError, take, take_seconds, take_state
from fastdqn.training.loop import Run, require_finite


class Stateful(Protocol):
    def state(self) -> State:
        """Returns a copy of the component's state."""
        ...

    def load_state(self, state: State) -> Any:
        """Loads a state dict; raises StateError naming the field."""
        ...


class CheckpointSink(Protocol):
    """Writes checkpoints in another thread."""

    @property
    def ready(self) -> bool:
        """Whether the last checkpoint has been written."""
        ...

    @property
    def newest_steps(self) -> int | None:
        """Environment steps of the last checkpoint that was written."""
        ...

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Whether to write all rows, since too many rows on disk are obsolete."""
        ...

    def check(self) -> None:
        """Raises the error of the writer thread, if any."""
        ...

    def write(
        self,
        steps: int,
        state: State,
        weights: dict[str, np.ndarray],
        rows: Rows | None,
        best: Any,
        oldest: np.ndarray | None,
    ) -> None: ...

    def close(self) -> None:
        """Waits until everything is written, and raises the error, if any."""
        ...


def components(run: Run) -> dict[str, Stateful]:
    """Returns every component with state, except the replay and its rows.

    This is the only list: a component that is missing here is not saved.
    """
    parts: dict[str, Stateful | None] = {
        "progress": run.progress,
        "stream": run.stream,
        "policy": run.policy,
        "learner": run.learner,
        "returns": run.feedback if run.feedback is not None and run.feedback.lag else None,
        **run.followers,
        "judge": run.best_weights,
        "recorder": run.recorder,
    }
    return {name: part for name, part in parts.items() if part is not None}


class DiskErrors(Protocol):
    def around(self, what: str) -> AbstractContextManager: ...


class Checkpointer:
    """Saves the state of a run to a sink, by environment steps or time.

    Args:
        sink: Writes the checkpoints.
        every_steps: Steps between checkpoints, or None.
        every_seconds: Seconds between checkpoints, or None.
        with_replay: Whether replay rows are saved.
        best: Returns the path of the best weights, or None if there are none.
        saved: int64[N], rows of each environment that are in earlier segments.
        ready: Returns whether the sink, and those of other ranks, have written the last one.
        clock: Returns seconds. The time of a checkpoint does not change what is learned.
        disk: Handles the errors of a failed write.
    """

    def __init__(
        self,
        sink: CheckpointSink,
        every_steps: int | None,
        every_seconds: float | None,
        with_replay: bool,
        best: Callable[[], Any],
        saved: np.ndarray,
        ready: Callable[[], bool],
        clock: Callable[[], float],
        disk: DiskErrors,
    ):
        self._sink, self._best, self._disk = sink, best, disk
        self._ready, self._clock = ready, clock
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._with_replay, self._saved = with_replay, saved
        self._on_disk = saved  # rows on disk if the last write failed
        self._owed, self._last = False, clock()
        self._unchecked = True  # whether the result of the last write is still unchecked

    def due(self, before: int, now: int, steps: int) -> bool:
        """Whether to take a checkpoint now.

        A checkpoint that is due during a write is taken afterwards, so that the loop never waits
        for the disk.
        """
        if self._unchecked and self._ready():
            self._unchecked = False
            with self._disk.around("the checkpoint"):
                self._check_write()
        if self._every_steps is not None and ticks(before, now, self._every_steps):
            self._owed = True
        if self._every_seconds is not None:
            self._owed |= self._clock() - self._last >= self._every_seconds
        # If all environments reset, the step count stays; only one checkpoint of it is taken.
        return self._owed and self._ready() and self._sink.newest_steps != steps

    def begin(self, run: Run) -> None:
        """Writes the first checkpoint, before any step, so that the run can always be resumed.

        It is on disk before the first evaluation writes the best weights. Does nothing if
        checkpoints are taken at the end only, or if there are some already.
        """
        if self._every_steps is None and self._every_seconds is None:
            return
        if self._sink.newest_steps is None:
            self.take(run)
            with self._disk.around("the checkpoint"):
                self._check_write(self._sink.close)

    def ask(self) -> None:
        """Requests a checkpoint as soon as possible."""
        self._owed = True

    def take(self, run: Run) -> None:
        """Takes a checkpoint; raises DivergedError if the loss or a weight is not finite."""
        with self._disk.around("a checkpoint's best weights"):
            self._hand_over(run)

    def _hand_over(self, run: Run) -> None:
        """Copies the state and starts the write.

        Raises:
            DivergedError: The loss or a weight is not finite; the last checkpoint is kept.
        """
        require_finite(run)
        state: State = {name: part.state() for name, part in components(run).items()}
        if run.recorded is not None:  # a stopped evaluation is repeated, including its rows
            state["recorder"] = run.recorded
        state["replay"] = run.replay.state() if self._with_replay else None
        state["phase_seconds"] = dict(run.laps.totals)
        learner = state["learner"]
        weights = {name: value for name, value in learner.items() if isinstance(value, np.ndarray)}
        state["learner"] = {name: value for name, value in learner.items() if name not in weights}
        rows = oldest = None
        if self._with_replay:
            rows = rows_to_save(run.replay, self._saved, self._sink)
            oldest = run.replay.oldest()
        self._owed, self._last = False, self._clock()
        self._sink.write(run.progress.steps, state, weights, rows, self._best(), oldest)
        self._on_disk, self._unchecked = self._saved, True
        if rows is not None:
            self._saved = rows.last.copy()

    def finish(self, run: Run) -> None:
        """Takes a final checkpoint and waits until it is written.

        There is one checkpoint for each step count. An evaluation that was stopped at the end is
        repeated by each resume, with the same result, until the run gets a larger budget.
        """
        with self._disk.around("the checkpoint"):
            self._check_write(self._sink.close)
        if self._sink.newest_steps != run.progress.steps:
            self._hand_over(run)
            self._check_write(self._sink.close)

    def _check_write(self, ask: Callable[[], None] | None = None) -> None:
        """Raises the error of the last write; its rows are then saved again."""
        try:
            (ask or self._sink.check)()
        except OSError:
            self._saved = self._on_disk
            raise


def rows_to_save(replay: Replay, saved: np.ndarray, sink: CheckpointSink) -> Rows:
    """Returns the rows since saved [N], or all rows if the sink wants them."""
    if sink.wants_all_rows(replay.bytes_since(saved), replay.nbytes):
        saved = np.zeros_like(saved)
    return replay.rows_since(saved)


def restore(
    run: Run,
    state: State,
    weights: dict[str, np.ndarray],
    segments: Callable[[RowLayout], Iterable[Rows]],
    anew: Container[str] = (),
) -> list[str]:
    """Restores a new run from a checkpoint.

    If its environments continue exactly, run.start is None afterwards. Otherwise they must be
    reset.

    Args:
        run: The run.
        state: State dict of the checkpoint.
        weights: Its arrays of the learner.
        segments: Returns the replay rows, for the given layout.
        anew: Components, or replay, that are not restored, since options changed.

    Returns:
        Lines on what could not be restored.

    Raises:
        StateError: A field is invalid; names the component and the field.
    """
    lines = []
    if take(state, "replay") is None:
        lines.append("the replay was not saved: it starts empty, and learning resumes later")
    elif "replay" not in anew:
        try:
            run.replay.load_state(take_state(state, "replay"), segments(run.replay.layout()))
        except StateError as error:
            raise StateError(f"replay: {error}") from None
    for name, part in components(run).items():
        if name in anew:
            continue
        given = take_state(state, name)
        if name == "returns" and state["replay"] is None:
            continue  # its row ids refer to rows that were not saved
        if name == "learner":
            given = {**given, **weights}
        if name == "stream" and state["replay"] is None:
            given = {**given, "envs": None}  # episodes must begin in the new replay too
        try:
            restored = part.load_state(given)
        except ValueError as error:  # including those of a user-defined set_state()
            raise StateError(f"{name}: {error}") from error
        if name == "stream" and restored:
            run.start = None
        elif name == "stream":
            lines.append(
                "the environments could not be restored: they are reset, and their open episodes "
                "are truncated"
            )
    progress = run.progress
    lanes = run.stream.num_lanes * run.ranks.count
    if "stream" not in anew and progress.now - progress.before > lanes:
        raise StateError(
            f"progress: before is {progress.before} and now is {progress.now}, which must be at "
            f"most {lanes} steps apart, one of each environment"
        )
    phases = take_state(state, "phase_seconds")
    run.laps.resume({name: take_seconds(phases, name) for name in phases})
    return lines
