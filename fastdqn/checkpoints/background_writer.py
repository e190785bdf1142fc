"""CheckpointWriter: copies a snapshot on the calling thread, and writes it on another."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdqn.checkpoints.format import COLUMN, TENSOR, step_name
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.checkpoints.state_codec import encode, own
from fastdqn.checkpoints.store import CheckpointStore
from fastdqn.checkpoints.write_checkpoint import Snapshot, take_best
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.durable_write import sync_file
from fastdqn.files.open_folder import Where, path_of
from fastdqn.state_dict import Rows, State
from fastdqn.system.python_threads import ThreadError, start_thread

# Seconds of waiting for the disk before close() reports it. Not tuned.
_PATIENCE = 30.0


class CheckpointWriter:
    """Writes the checkpoints of one run, one at a time. The caller holds the lock of the run.

    Leftovers of a crash are deleted.

    Args:
        run: Existing run folder.
        config: Stored as JSON with every checkpoint, so tuples become lists.
        resumed: Checkpoint to resume from. Newer ones are deleted.
        beside: Append-only files whose sizes are in the state. They are synced before each
            checkpoint.
        report: Called with a line if close() waits for long.
        continues: Whether the replay goes on where the checkpoint ends. Otherwise the first rows
            are all rows.

    Raises:
        ValueError: config is not JSON, or the run has checkpoints and resumed is not one of them.
        WriteError: A file cannot be written.
    """

    def __init__(
        self,
        run: Where,
        config: dict[str, Any],
        resumed: Checkpoint | None = None,
        beside: Sequence[Where] = (),
        report: Callable[[str], None] = lambda line: None,
        continues: bool = True,
    ):
        self._beside, self._report = beside, report
        self._config = json.loads(json.dumps(config, allow_nan=False))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        with _write_errors(run / "checkpoints", 0):
            self._store = CheckpointStore(run, resumed, continues)

    @property
    def ready(self) -> bool:
        """Whether write() may be called: no checkpoint is being written."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def newest_steps(self) -> int | None:
        """Steps of the newest checkpoint on disk, or None. Valid only while ready."""
        return self._store.newest_steps

    def write(
        self,
        steps: int,
        state: State,
        weights: dict[str, np.ndarray],
        rows: Rows | None = None,
        best: Where | None = None,
        oldest: np.ndarray | None = None,
    ) -> None:
        """Copies a snapshot and returns. A thread writes it, and check() raises its errors.

        An array that is read-only and owns its memory is not copied.

        Args:
            steps: Number of environment steps made.
            state: State of all components.
            weights: Weights of the network by name.
            rows: Rows that changed since the last successful write, or all from oldest on. None
                leaves out the replay buffer, and the next rows must be all of them.
            best: File with the best weights. It may be replaced later, but not modified.
            oldest: int64[N], the oldest row of each lane that is still needed. None: zeros.

        Raises:
            RuntimeError: ready is False.
            ValueError: A value cannot be stored. The message names it.
            WriteError: The disk failed, now or in the previous write, see check().
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
            bounds = self._store.checked_oldest(rows, oldest)
        with _write_errors(best or self._store.root, 0):
            held = None if best is None else take_best(self._store.root, best)
        snapshot = Snapshot(steps, encoded, arrays, owned, rows, bounds, held)
        try:
            self._thread = start_thread(self._work, snapshot, name="checkpoint")
        except ThreadError:  # written here instead, while the run waits
            self._work(snapshot)

    def check(self) -> None:
        """Raises the error of the last write, once: WriteError if the disk failed.

        The rows of the failed write must be passed again with the next one.
        """
        error = self._error
        if error is not None:  # not reset otherwise: the thread may be setting it
            self._error = None
            raise error

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Returns whether the next write should contain all rows, to limit the size on disk.

        Valid only while ready.
        """
        return self._store.wants_all_rows(new_bytes, replay_bytes)

    def close(self) -> None:
        """Waits for the thread without a timeout, then calls check(). A second signal aborts."""
        reported = False
        while self._thread is not None and not self.ready:
            self._thread.join(_PATIENCE)
            if not (reported or self.ready):
                self._report("the disk is slow: waiting until the last checkpoint is written")
                reported = True
        self.check()

    def _refuse_while_busy(self) -> None:
        if not self.ready:
            raise RuntimeError("the last checkpoint is still being written: check ready first")

    def _work(self, snapshot: Snapshot) -> None:
        """Writes a snapshot. Only this thread uses the store meanwhile."""
        try:
            with _write_errors(self._store.root, snapshot.nbytes):
                for path in self._beside:
                    sync_file(path)
                self._store.add(snapshot, self._config)
        except BaseException as error:
            try:
                self._store.clean()  # first: reporting a full disk needs free space
            finally:
                self._error = error


def _own_weights(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies weights. Raises ValueError for a name or an array that cannot be stored."""
    for name in weights:
        if TENSOR.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a valid name for a tensor")
    return {name: own(array, f"weights {name}") for name, array in weights.items()}


def _own_rows(rows: Rows) -> Rows:
    """Copies rows. Raises ValueError if their shapes do not match."""
    first, last = (own(np.asarray(each, np.int64), "rows") for each in rows[:2])
    if first.ndim != 1 or first.shape != last.shape or ((first < 0) | (last < first)).any():
        raise ValueError(f"rows first {first} and last {last} are not one range per environment")
    total = int((last - first).sum())
    for name, array in rows.columns.items():
        if COLUMN.fullmatch(name) is None or name in ("first", "last"):
            raise ValueError(
                f"{name!r} is not a valid name for a column: use lower case and underscores"
            )
        if array.shape[:1] != (total,):
            raise ValueError(f"column {name} has shape {array.shape}, expected {total} rows")
    columns = {name: own(array, f"column {name}") for name, array in rows.columns.items()}
    return Rows(first, last, columns)


@contextlib.contextmanager
def _write_errors(path: Where, needed: int):
    """Converts an OSError to a WriteError that names the path and the free space."""
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
