"""Checkpoints: what a run remembers, and when it is written down."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from fastdqn.replay import Replay, Rows
from fastdqn.schedules import ticks
from fastdqn.state_dict import RowLayout, State, StateError, take, take_seconds, take_state
from fastdqn.training.loop import Run, require_finite


class Stateful(Protocol):
    def state(self) -> State:
        """All that the part's future depends on, as a copy."""
        ...

    def load_state(self, state: State) -> Any:
        """Go on from a state. Raises StateError naming the field."""
        ...


class CheckpointSink(Protocol):
    """Writes what it is handed in a thread of its own."""

    @property
    def ready(self) -> bool:
        """Whether the last one is written."""
        ...

    @property
    def newest_steps(self) -> int | None:
        """Steps at the last one that was written."""
        ...

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Whether the next rows should be all there are: too many are on disk to no use."""
        ...

    def check(self) -> None:
        """Raise what went wrong in the thread."""
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
        """Wait until all is written, and raise what went wrong."""
        ...


def components(run: Run) -> dict[str, Stateful]:
    """Every part of a run that remembers anything, but for the replay and its rows.

    The one list of them: what is not here does not survive the process.
    """
    parts: dict[str, Stateful | None] = {
        "progress": run.progress,
        "stream": run.stream,
        "policy": run.policy,
        "learner": run.learner,
        "returns": run.returns if run.returns is not None and run.returns.lag else None,
        **run.followers,
        "judge": run.judge,
        "recorder": run.recorder,
    }
    return {name: part for name, part in parts.items() if part is not None}


class DiskErrors(Protocol):
    def around(self, what: str) -> AbstractContextManager: ...


class Checkpointer:
    """Takes the state of a run by steps or by time, and hands it to a sink.

    every_steps, every_seconds  None: not by that
    with_replay  whether rows are written too
    best   gives the path of the best weights so far, None if there are none
    saved  [N] int64, rows of each lane that are in earlier segments
    disk   what becomes of the run where a checkpoint cannot be written
    clock  seconds; when a checkpoint is taken changes nothing that is learned
    """

    def __init__(
        self,
        sink: CheckpointSink,
        every_steps: int | None,
        every_seconds: float | None,
        with_replay: bool,
        best: Callable[[], Any],
        saved: np.ndarray,
        clock: Callable[[], float],
        disk: DiskErrors,
    ):
        self._sink, self._best, self._clock, self._disk = sink, best, clock, disk
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._with_replay, self._saved = with_replay, saved
        self._on_disk = saved  # where the last write did not succeed, those before it
        self._owed, self._last = False, clock()
        self._untold = True  # whether what became of the last write is still to be asked

    def due(self, before: int, now: int, steps: int) -> bool:
        """Whether to take one now, of so many steps. One that falls due while another is still
        being written is taken when that is over: the loop never waits for the disk."""
        if self._untold and self._sink.ready:
            self._untold = False
            with self._disk.around("the checkpoint"):
                self._take_back()
        if self._every_steps is not None and ticks(before, now, self._every_steps):
            self._owed = True
        if self._every_seconds is not None:
            self._owed |= self._clock() - self._last >= self._every_seconds
        # A turn in which all lanes reset makes no step; there is one checkpoint of a step count.
        return self._owed and self._sink.ready and self._sink.newest_steps != steps

    def begin(self, run: Run) -> None:
        """Take the first one, before a step is made: from then on there is something to go on from.

        Nothing where no checkpoints are taken before the end, or where there are some.
        """
        if self._every_steps is None and self._every_seconds is None:
            return
        if self._sink.newest_steps is None:
            self.take(run)

    def ask(self) -> None:
        """Take one at the next moment at which one can be taken."""
        self._owed = True

    def take(self, run: Run) -> None:
        """Take one. Raises DivergedError where numbers are not finite."""
        with self._disk.around("a checkpoint's best weights"):
            self._hand_over(run)

    def _hand_over(self, run: Run) -> None:
        """Copy what belongs to a checkpoint, and set the writing going.

        Raises DivergedError, with the last good checkpoint left there, where numbers are not
        finite.
        """
        require_finite(run)
        state: State = {name: part.state() for name, part in components(run).items()}
        if run.recorded is not None:  # an evaluation is repeated, and so are its rows
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
        self._on_disk, self._untold = self._saved, True
        if rows is not None:
            self._saved = rows.last.copy()

    def finish(self, run: Run) -> None:
        """Take a last one, and wait until it is written.

        There is one of a step count: an evaluation that was stopped at the very end is made again
        by each resume, with the same result, until a new total takes the run further.
        """
        with self._disk.around("the checkpoint"):
            self._take_back(self._sink.close)
        if self._sink.newest_steps != run.progress.steps:
            self._hand_over(run)
            self._take_back(self._sink.close)

    def _take_back(self, ask: Callable[[], None] | None = None) -> None:
        """Ask what became of the last write; its rows are handed over again where it failed."""
        try:
            (ask or self._sink.check)()
        except OSError:
            self._saved = self._on_disk
            raise


def rows_to_save(replay: Replay, saved: np.ndarray, sink: CheckpointSink) -> Rows:
    """The rows since saved [N] of them; all there are, where the sink wants that."""
    if sink.wants_all_rows(replay.bytes_since(saved), replay.nbytes):
        saved = np.zeros_like(saved)
    return replay.rows_since(saved)


def restore(
    run: Run,
    state: State,
    weights: dict[str, np.ndarray],
    segments: Callable[[RowLayout], Iterable[Rows]],
) -> list[str]:
    """Bring a run that was just built to the state of a checkpoint.

    segments  gives the rows of the replay, which must be laid out in just this way

    Where its environments go on exactly, run.start is None afterwards; else they are to be reset.
    returns  lines that say what could not be restored
    Raises StateError naming part and field.
    """
    lines = []
    if take(state, "replay") is None:
        lines.append("the replay was not saved: it starts empty, and learning begins again later")
    else:
        try:
            run.replay.load_state(take_state(state, "replay"), segments(run.replay.layout()))
        except StateError as error:
            raise StateError(f"replay: {error}") from None
    for name, part in components(run).items():
        given = take_state(state, name)
        if name == "returns" and state["replay"] is None:
            continue  # of rows that are gone: others will have their ids
        if name == "learner":
            given = {**given, **weights}
        if name == "stream" and state["replay"] is None:
            given = {**given, "envs": None}  # an episode must begin in the replay too
        try:
            restored = part.load_state(given)
        except ValueError as error:  # of a set_state() of anyone's too
            raise StateError(f"{name}: {error}") from error
        if name == "stream" and restored:
            run.start = None
        elif name == "stream":
            lines.append(
                "the environments could not be restored: they are reset, and their open episodes "
                "end as truncated"
            )
    progress = run.progress
    if progress.now - progress.before > run.stream.num_lanes:
        raise StateError(
            f"progress: now is {progress.now}, and before {progress.before}: that is no turn of "
            f"{run.stream.num_lanes} environments"
        )
    phases = take_state(state, "phase_seconds")
    run.laps.resume({name: take_seconds(phases, name) for name in phases})
    return lines
