"""CheckpointWriter: takes a snapshot on the loop's thread, writes it on another."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdqn.checkpoints.commit import Snapshot, take_best
from fastdqn.checkpoints.format import COLUMN, TENSOR, step_name
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.checkpoints.state_codec import encode, own
from fastdqn.checkpoints.store import Shelf
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.durable_write import sync_file
from fastdqn.files.open_folder import Where, path_of
from fastdqn.state_dict import Rows, State
from fastdqn.system.threads import ThreadError, start_thread

# Seconds of waiting for the disk after which it is told. Ours, untuned.
_PATIENCE = 30.0


class CheckpointWriter:
    """Writes the checkpoints of one run, one at a time; the run's lock is the caller's.

    run      the run's folder, which exists
    config   stored as JSON with every checkpoint: tuples come back as lists
    resumed  the checkpoint the run goes on from: newer ones are abandoned and deleted
    beside   files that grow, and whose sizes states tell: on disk before each checkpoint is
    tell     takes a line where close() has to wait for long
    Sweeps what a crash left behind. Raises ValueError where config is no JSON, or the run has
    checkpoints and resumed is none of them; WriteError.
    """

    def __init__(
        self,
        run: Where,
        config: dict[str, Any],
        resumed: Checkpoint | None = None,
        beside: Sequence[Where] = (),
        tell: Callable[[str], None] = lambda line: None,
    ):
        self._beside, self._tell = beside, tell
        self._config = json.loads(json.dumps(config, allow_nan=False))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        with _write_errors(run / "checkpoints", 0):
            self._shelf = Shelf(run, resumed)

    @property
    def ready(self) -> bool:
        """Whether write() may be called: the last checkpoint is written, or has failed."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def newest_steps(self) -> int | None:
        """Steps of the newest checkpoint on disk, or None; know it while ready."""
        return self._shelf.newest_steps

    def write(
        self,
        steps: int,
        state: State,
        weights: dict[str, np.ndarray],
        rows: Rows | None = None,
        best: Where | None = None,
        oldest: np.ndarray | None = None,
    ) -> None:
        """Copy everything and return; a thread writes it. check() tells what became of it.

        An array that is read-only and owns its memory is taken without a copy.
        rows     those changed since the last write that succeeded, or all from oldest on; None
                 leaves the replay out, and the rows after that must be all there are
        oldest   [N] int64, the oldest row of each lane still of use; zeros if not given
        best     a file as it is now, which is only ever replaced, never written into
        Raises what check() raises; RuntimeError while not ready; ValueError for what cannot be
        stored, naming it; WriteError.
        """
        self._refuse_while_busy()
        self.check()
        newest = self.newest_steps
        if newest is not None and steps <= newest:
            raise ValueError(f"steps is {steps}, but there is a checkpoint at {newest} already")
        step_name(steps)
        encoded, arrays = encode(state)
        owned = _own_weights(weights)
        bounds = np.zeros(0, np.int64)
        if rows is not None:
            rows = _own_rows(rows)
            bounds = self._shelf.checked_oldest(rows, oldest)
        with _write_errors(best or self._shelf.root, 0):
            held = None if best is None else take_best(self._shelf.root, best)
        snapshot = Snapshot(steps, encoded, arrays, owned, rows, bounds, held)
        try:
            self._thread = start_thread(self._work, snapshot, name="checkpoint")
        except ThreadError:  # written all the same, while the run waits
            self._work(snapshot)

    def check(self) -> None:
        """Raise, once, what the thread raised: WriteError where the disk refused.

        After that the rows of that write are to be handed over again with the next.
        """
        error = self._error
        if error is not None:  # only then: the thread may be setting it just now
            self._error = None
            raise error

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Whether the rows of the next write should be all there are, not new_bytes of new ones:
        what is on disk would grow out of proportion. Know it while ready."""
        return self._shelf.wants_all_rows(new_bytes, replay_bytes)

    def close(self) -> None:
        """Wait for the thread, then check(). It takes as long as the disk does: a sync says
        nothing of how far it is, and a second signal is the way out."""
        told = False
        while self._thread is not None and not self.ready:
            self._thread.join(_PATIENCE)
            if not (told or self.ready):
                self._tell("the disk has not taken the last checkpoint yet: it is waited for")
                told = True
        self.check()

    def _refuse_while_busy(self) -> None:
        if not self.ready:
            raise RuntimeError("the last checkpoint is still being written: ask ready first")

    def _work(self, snapshot: Snapshot) -> None:
        """The thread's. While it runs, nobody else touches the shelf."""
        try:
            with _write_errors(self._shelf.root, snapshot.nbytes):
                for path in self._beside:
                    sync_file(path)
                self._shelf.add(snapshot, self._config)
        except BaseException as error:
            try:
                self._shelf.clean()  # first: whoever is told of a full disk needs the room
            finally:
                self._error = error


def _own_weights(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of weights. Raises ValueError for a name or an array that cannot be stored."""
    for name in weights:
        if TENSOR.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name for a tensor")
    return {name: own(array, f"weights {name}") for name, array in weights.items()}


def _own_rows(rows: Rows) -> Rows:
    """Copies of rows. Raises ValueError where they do not fit together."""
    first, last = (own(np.asarray(each, np.int64), "rows") for each in rows[:2])
    if first.ndim != 1 or first.shape != last.shape or ((first < 0) | (last < first)).any():
        raise ValueError(f"rows first {first} and last {last} are no ranges, one a lane")
    total = int((last - first).sum())
    for name, array in rows.columns.items():
        if COLUMN.fullmatch(name) is None or name in ("first", "last"):
            raise ValueError(f"{name!r} is no name for a column: lower case and underscores")
        if array.shape[:1] != (total,):
            raise ValueError(f"column {name} has shape {array.shape}: {total} rows expected")
    columns = {name: own(array, f"column {name}") for name, array in rows.columns.items()}
    return Rows(first, last, columns)


@contextlib.contextmanager
def _write_errors(path: Where, needed: int):
    """Turn an OSError into a WriteError that names the path and the room."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        room = f"; {needed:,} bytes needed"
        with contextlib.suppress(OSError):
            room = (
                f"; {shutil.disk_usage(path_of(path).parent).free:,} bytes free, {needed:,} needed"
            )
        place = error.filename or path
        raise WriteError(f"cannot write {place}: {error.strerror}{room}") from error
