"""CheckpointStore: the checkpoints and segments of a run on disk. It adds and deletes them."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdqn.checkpoints.checked_read import read_latest, read_manifest
from fastdqn.checkpoints.format import SEGMENT, STEP, CheckpointError, steps_of
from fastdqn.checkpoints.loader import Checkpoint, checkpoint_names
from fastdqn.checkpoints.manifest import Segment
from fastdqn.checkpoints.write_checkpoint import (
    Snapshot,
    set_latest,
    write_checkpoint,
    write_segment,
)
from fastdqn.files.durable_write import TEMPORARY, exists, make_folder, remove
from fastdqn.files.open_folder import Where, names_in, path_of
from fastdqn.state_dict import Rows

_KEPT = 2  # checkpoints that are kept, since one may be damaged
# Size limit of the segments of a checkpoint, in replay buffers. Above it, all rows are rewritten.
_LISTED_REPLAYS = 2
_MAX_SEGMENTS = 256  # of one checkpoint, since each adds files and manifest entries; not tuned
# Upper bound of the rows on disk while a checkpoint is written, in replay buffers: the segments of
# the previous checkpoint, all rows of the latest, and all rows of the new one.
MOST_REPLAYS = _LISTED_REPLAYS + 2


class CheckpointStore:
    """The folder RUN/checkpoints, as seen by its only writer. Leftovers of a crash are deleted.

    Args:
        run: Run folder.
        resumed: Checkpoint to resume from. It becomes the latest, and newer ones are deleted.
        continues: Whether the next rows follow those of that checkpoint.

    Raises:
        ValueError: The run has checkpoints, and resumed is not one of them.
        OSError: A file cannot be read or written. The error names its path.
    """

    def __init__(self, run: Where, resumed: Checkpoint | None, continues: bool = True):
        self._run, self.root = run, run / "checkpoints"
        latest = self.root / "latest"
        if resumed is None and exists(latest):
            raise ValueError(f"{latest} exists: resume from a checkpoint, or use another folder")
        if resumed is not None and _is_elsewhere(resumed, self.root):
            raise ValueError(f"{resumed.folder} is not a checkpoint of {run}")
        make_folder(self.root)
        make_folder(self.root / "segments")
        self._segments: list[Segment] = [] if resumed is None else list(resumed.listed)
        self._kept: dict[
            str, frozenset[str]
        ] = {}  # checkpoint -> names of its segments, oldest first
        if resumed is not None:
            self._resume_from(resumed.name)
        if not continues:
            self._segments = []
        _sweep(self.root, self._kept)
        names = filter(SEGMENT.fullmatch, names_in(self.root / "segments"))
        self._last_segment = max(map(int, names), default=0)

    @property
    def newest_steps(self) -> int | None:
        return steps_of(max(self._kept)) if self._kept else None

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Returns whether the next write should contain all rows.

        It should if new_bytes of new rows would make the segments too many or too large.
        """
        entries = [each.entry for each in self._segments]
        listed = sum(file.bytes for entry in entries for file in entry.files.values())
        return len(entries) >= _MAX_SEGMENTS or listed + new_bytes > _LISTED_REPLAYS * replay_bytes

    def checked_oldest(self, rows: Rows, oldest: np.ndarray | None) -> np.ndarray:
        """Returns oldest as int64[N], by default zeros.

        Raises:
            ValueError: Rows of a lane leave a gap after those on disk, or end before them.
        """
        lanes = len(rows.first)
        oldest = np.zeros(lanes, np.int64) if oldest is None else np.array(oldest, np.int64)
        end = self._segments[-1].last if self._segments else np.zeros(lanes, np.int64)
        if oldest.shape != (lanes,) or end.shape != (lanes,):
            raise ValueError(
                f"oldest has shape {oldest.shape}, but there are rows of {lanes} environments, and "
                f"of {len(end)} on disk"
            )
        gap = np.flatnonzero((rows.first > np.maximum(end, oldest)) | (rows.last < end))
        if len(gap):
            lane = gap[0]
            raise ValueError(
                f"env {lane}: rows {rows.first[lane]} to {rows.last[lane]} do not follow those "
                f"on disk, which end at {end[lane]}: pass all rows since the last success"
            )
        return oldest

    def add(self, snapshot: Snapshot, config: dict[str, Any]) -> None:
        """Writes a checkpoint and deletes the third newest.

        Raises:
            OSError: A write failed. The latest checkpoint is the previous one or this one.
        """
        rows, segments = snapshot.rows, []
        if rows is not None:
            segments = _still_needed(self._segments, rows, snapshot.oldest)
            if (rows.last > rows.first).any():
                self._last_segment += 1
                segments.append(write_segment(self.root, f"{self._last_segment:08d}", rows))
        name = write_checkpoint(self.root, snapshot, config, segments)
        try:
            set_latest(self.root, name)
        finally:
            # The rename may have succeeded although the sync after it failed.
            if self._latest() in (name, None):
                self._kept[name] = frozenset(each.entry.name for each in segments)
                self._segments = segments
        self._kept = dict(sorted(self._kept.items())[-_KEPT:])
        _sweep(self.root, self._kept)

    def clean(self) -> None:
        """Deletes what a failed add() left. Errors are ignored."""
        with contextlib.suppress(OSError):
            _sweep(self.root, self._kept)

    def _resume_from(self, resumed: str) -> None:
        if self._latest() != resumed:
            set_latest(self.root, resumed)
        names = [name for name in checkpoint_names(self._run) if name < resumed][1 - _KEPT :]
        self._kept = {name: self._segments_of(name) for name in names}
        self._kept[resumed] = frozenset(each.entry.name for each in self._segments)

    def _segments_of(self, name: str) -> frozenset[str]:
        """Returns the segments of a checkpoint, or all segments if its manifest cannot be read."""
        try:
            return frozenset(each.name for each in read_manifest(self._run, name).segments)
        except CheckpointError:  # the error may be temporary, so its segments are kept
            return frozenset(names_in(self.root / "segments"))

    def _latest(self) -> str | None:
        """Returns the name of the latest checkpoint, "" without one, None if it is unreadable."""
        try:
            return read_latest(self._run)
        except FileNotFoundError:
            return ""
        except CheckpointError:
            return None


def _is_elsewhere(checkpoint: Checkpoint, root: Where) -> bool:
    return path_of(checkpoint.folder.parent).resolve() != path_of(root).resolve()


def _still_needed(segments: list[Segment], rows: Rows, oldest: np.ndarray) -> list[Segment]:
    """Returns the segments with a row that is still needed and not in a later segment or rows.

    Args:
        segments: Oldest first. Each starts in a lane where the earlier ones end, or before.
        rows: Rows of the next segment.
        oldest: int64[N]. Earlier rows are overwritten in the replay buffer.
    """
    kept: list[Segment] = []
    later = rows.first  # rows from here on are in segments that are kept
    for each in reversed(segments):
        if (np.minimum(each.last, later) > np.maximum(each.first, oldest)).any():
            kept.insert(0, each)
            later = np.minimum(later, each.first)
    return kept


def _sweep(root: Where, kept: Mapping[str, frozenset[str]]) -> None:
    """Deletes files that no kept checkpoint needs, and leftovers of a crash. Other files stay.

    Args:
        root: RUN/checkpoints.
        kept: Maps checkpoints to the names of their segments.

    Raises:
        OSError: A file cannot be deleted. The error names its path.
    """
    listed = frozenset().union(*kept.values())
    # Checkpoints first, so that none is ever without its segments.
    for folder, pattern, needed in ((root, STEP, kept), (root / "segments", SEGMENT, listed)):
        for name in names_in(folder):  # temporary names come first: they start with a dot
            if name.startswith(TEMPORARY) or (pattern.fullmatch(name) and name not in needed):
                remove(folder / name)
