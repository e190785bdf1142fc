"""Shelf: which checkpoints and segments a run has on disk, and the order in which they change."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdqn.checkpoints.checked_read import read_latest, read_manifest
from fastdqn.checkpoints.commit import Snapshot, set_latest, write_checkpoint, write_segment
from fastdqn.checkpoints.format import SEGMENT, STEP, CheckpointError
from fastdqn.checkpoints.loader import Checkpoint, checkpoint_names
from fastdqn.checkpoints.manifest import Segment
from fastdqn.files.durable_write import TEMPORARY, exists, make_folder, remove
from fastdqn.files.open_folder import Where, names_in, path_of
from fastdqn.state_dict import Rows

_KEPT = 2  # checkpoints: one may turn out damaged
# The segments of one checkpoint hold up to twice the replay; then all rows are written once more.
_LISTED_REPLAYS = 2
_MOST_SEGMENTS = 256  # of one checkpoint: each is some files, and a part of the manifest; ours
# What rows take on disk, in sizes of the replay, while a checkpoint is being written: those of
# the one but last, all rows of the last, and a third that replaces as much again.
MOST_REPLAYS = _LISTED_REPLAYS + 2


class Shelf:
    """RUN/checkpoints as its only writer knows it.

    resumed  the checkpoint the run goes on from: it becomes the latest, newer ones are deleted
    Sweeps what a crash left behind. Raises ValueError where the run has checkpoints and resumed
    is none of them; OSError naming the path.
    """

    def __init__(self, run: Where, resumed: Checkpoint | None):
        self._run, self.root = run, run / "checkpoints"
        latest = self.root / "latest"
        if resumed is None and exists(latest):
            raise ValueError(f"{latest} exists: go on from a checkpoint, or take another folder")
        if resumed is not None and _is_elsewhere(resumed, self.root):
            raise ValueError(f"{resumed.folder} is no checkpoint of {run}")
        make_folder(self.root)
        make_folder(self.root / "segments")
        self._segments: list[Segment] = [] if resumed is None else list(resumed.listed)
        self._kept: dict[str, frozenset[str]] = {}  # checkpoint -> its segments, oldest first
        if resumed is not None:
            self._go_on_from(resumed.name)
        _sweep(self.root, self._kept)
        names = filter(SEGMENT.fullmatch, names_in(self.root / "segments"))
        self._last_segment = max(map(int, names), default=0)

    @property
    def newest_steps(self) -> int | None:
        return int(max(self._kept).removeprefix("step-")) if self._kept else None

    def wants_all_rows(self, new_bytes: int, replay_bytes: int) -> bool:
        """Whether the next rows should be all there are: with new_bytes of new ones alone the
        segments would be too many, or too large for a replay of that size."""
        entries = [each.entry for each in self._segments]
        listed = sum(file.bytes for entry in entries for file in entry.files.values())
        return len(entries) >= _MOST_SEGMENTS or listed + new_bytes > _LISTED_REPLAYS * replay_bytes

    def checked_oldest(self, rows: Rows, oldest: np.ndarray | None) -> np.ndarray:
        """oldest as [N] int64, zeros if not given.

        Raises ValueError where a lane's rows leave a gap after those on disk, or end before them.
        """
        lanes = len(rows.first)
        oldest = np.zeros(lanes, np.int64) if oldest is None else np.array(oldest, np.int64)
        end = self._segments[-1].last if self._segments else np.zeros(lanes, np.int64)
        if oldest.shape != (lanes,) or end.shape != (lanes,):
            raise ValueError(
                f"oldest has shape {oldest.shape}, rows {lanes} lanes and those on disk {len(end)}"
            )
        gap = np.flatnonzero((rows.first > np.maximum(end, oldest)) | (rows.last < end))
        if len(gap):
            lane = gap[0]
            raise ValueError(
                f"lane {lane}: rows {rows.first[lane]} to {rows.last[lane]} do not follow those "
                f"on disk, which end at {end[lane]}: hand over all rows since the last success"
            )
        return oldest

    def add(self, snapshot: Snapshot, config: dict[str, Any]) -> None:
        """Write a checkpoint and let go of the third newest.

        Raises OSError naming the path; the latest is then the one before, or this one.
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
            # The rename may have worked although the sync after it did not.
            if self._latest() in (name, None):
                self._kept[name] = frozenset(each.entry.name for each in segments)
                self._segments = segments
        self._kept = dict(sorted(self._kept.items())[-_KEPT:])
        _sweep(self.root, self._kept)

    def clean(self) -> None:
        """Delete what a failed add() left; a disk that refuses this too is not reported."""
        with contextlib.suppress(OSError):
            _sweep(self.root, self._kept)

    def _go_on_from(self, resumed: str) -> None:
        if self._latest() != resumed:
            set_latest(self.root, resumed)
        names = [name for name in checkpoint_names(self._run) if name < resumed][1 - _KEPT :]
        self._kept = {name: self._segments_of(name) for name in names}
        self._kept[resumed] = frozenset(each.entry.name for each in self._segments)

    def _segments_of(self, name: str) -> frozenset[str]:
        """Segments that an earlier checkpoint lists; all there are where it cannot be read."""
        try:
            return frozenset(each.name for each in read_manifest(self._run, name).segments)
        except CheckpointError:  # perhaps only for now: what it may need stays while it is kept
            return frozenset(names_in(self.root / "segments"))

    def _latest(self) -> str | None:
        """Name of the latest checkpoint; "" without one, None where that cannot be told."""
        try:
            return read_latest(self._run)
        except FileNotFoundError:
            return ""
        except CheckpointError:
            return None


def _is_elsewhere(checkpoint: Checkpoint, root: Where) -> bool:
    return path_of(checkpoint.folder.parent).resolve() != path_of(root).resolve()


def _still_needed(segments: list[Segment], rows: Rows, oldest: np.ndarray) -> list[Segment]:
    """Those segments that hold a row of use which nothing later does, rows included.

    segments  oldest first; each begins in a lane where those before it end, or earlier
    oldest    [N] int64: rows below it are overwritten in the replay
    """
    kept: list[Segment] = []
    later = rows.first  # from here on all rows are in what is kept already
    for each in reversed(segments):
        if (np.minimum(each.last, later) > np.maximum(each.first, oldest)).any():
            kept.insert(0, each)
            later = np.minimum(later, each.first)
    return kept


def _sweep(root: Where, kept: Mapping[str, frozenset[str]]) -> None:
    """Delete what no checkpoint of kept needs, and whatever a crash left unfinished.

    root  RUN/checkpoints
    kept  checkpoint name -> names of its segments
    Names that are not ours stay. Raises OSError naming the path.
    """
    listed = frozenset().union(*kept.values())
    # Checkpoints first: one that lacks a segment must not be found.
    for folder, pattern, needed in ((root, STEP, kept), (root / "segments", SEGMENT, listed)):
        for name in names_in(folder):  # temporaries first: a dot sorts before the rest
            if name.startswith(TEMPORARY) or (pattern.fullmatch(name) and name not in needed):
                remove(folder / name)
