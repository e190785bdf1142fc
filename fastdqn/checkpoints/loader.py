"""Loads and verifies a checkpoint. An error suggests another checkpoint that is intact."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdqn.checkpoints.checked_read import (
    check_file,
    check_size,
    read_array,
    read_file,
    read_latest,
    read_manifest,
    read_tensors,
)
from fastdqn.checkpoints.format import DTYPES, STEP, CheckpointError, LayoutError, damaged
from fastdqn.checkpoints.manifest import Segment, SegmentEntry
from fastdqn.checkpoints.state_codec import array_specs, decode
from fastdqn.files.open_folder import Where, names_in
from fastdqn.state_dict import RowLayout, Rows, State
from fastdqn.text import brief


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Checkpoint in memory. The rows of the replay buffer stay on disk.

    Attributes:
        name: Name of the checkpoint.
        folder: RUN/checkpoints/NAME.
        steps: Number of environment steps made.
        config: Options of the run.
        state: State of all components.
        weights: Weights of the network by name.
        best: Content of the file with the best weights so far, or None.
        listed: Segments that contain the rows.
    """

    name: str
    folder: Where
    steps: int
    config: dict[str, Any]
    state: State
    weights: dict[str, np.ndarray]
    best: bytes | None
    listed: tuple[Segment, ...]

    def segments(self, layout: RowLayout | None = None) -> Iterator[Rows]:
        """Yields the rows of each segment, oldest first. A later segment overrides earlier ones.

        Each segment is read and verified when it is requested. It may be deleted once a writer
        has made newer checkpoints.

        Args:
            layout: Expected layout. Another one is rejected before anything is allocated.

        Raises:
            CheckpointError: A segment is damaged.
        LayoutError: It differs from the layout.
        """
        run = self.folder.parent.parent
        for segment in self.listed:
            try:
                if layout is not None:
                    _require_layout(run, segment, layout)
                yield _read_rows(run, segment)
            except LayoutError:
                raise
            except CheckpointError as error:
                raise _with_offer(error, run, self.name) from None


def load_checkpoint(run: Where, name: str | None = None) -> Checkpoint:
    """Loads a checkpoint of a run.

    Only the sizes of segment files are checked here. Checkpoint.segments() verifies their
    checksums.

    Args:
        run: Run folder.
        name: Name of the checkpoint. None: the latest.

    Raises:
        CheckpointError: A file is damaged. The message names file and field, and the newest other
            checkpoint that is intact.
    """
    chosen = name
    try:
        if chosen is None:
            chosen = read_latest(run)
        return _load(run, chosen)
    except CheckpointError as error:
        raise _with_offer(error, run, chosen) from None
    except FileNotFoundError as error:
        missing = damaged(error.filename, "file", "does not exist: there is no checkpoint yet")
        raise _with_offer(missing, run, chosen) from None


def checkpoint_names(run: Where) -> list[str]:
    """Returns the names of the checkpoints of a run, oldest first, without reading them."""
    try:
        return sorted(filter(STEP.fullmatch, names_in(run / "checkpoints")))
    except OSError:
        return []


def _load(run: Where, name: str) -> Checkpoint:
    folder = run / "checkpoints" / name
    if STEP.fullmatch(name) is None:
        raise damaged(run / "checkpoints", "name", f"{brief(name)} is not the name of a checkpoint")
    manifest = read_manifest(run, name)
    specs = array_specs(manifest.state, folder / "manifest.json")

    def place(file: str) -> tuple[str, ...]:
        return ("checkpoints", name, file)

    weights, state = "weights.safetensors", "state.safetensors"
    arrays = read_tensors(run, place(state), manifest.files[state], specs)
    best = manifest.files.get("best.safetensors")
    return Checkpoint(
        name,
        folder,
        manifest.steps,
        manifest.config,
        decode(manifest.state, arrays, folder / "manifest.json"),
        read_tensors(run, place(weights), manifest.files[weights], manifest.weights),
        None if best is None else read_file(run, place("best.safetensors"), best),
        tuple(_read_bounds(run, entry) for entry in manifest.segments),
    )


def _place(entry: SegmentEntry, file: str) -> tuple[str, ...]:
    return ("checkpoints", "segments", entry.name, file)


def _below(run: Where, names: tuple[str, ...]) -> Where:
    return functools.reduce(lambda path, name: path / name, names, run)


def _read_bounds(run: Where, entry: SegmentEntry) -> Segment:
    """Returns a segment with the bounds of its rows. Only the sizes of its files are checked."""
    for file, of_file in entry.files.items():
        check_size(run, _place(entry, file), of_file)
    first, last = (
        read_array(run, _place(entry, file), entry.files[file])
        for file in ("first.npy", "last.npy")
    )
    bad = np.flatnonzero((first < 0) | (last < first))
    path = _below(run, _place(entry, "last.npy"))
    if len(bad):
        raise damaged(path, f"env {bad[0]}", f"rows {first[bad[0]]} to {last[bad[0]]}")
    # Python integers: the sum of int64 values from a file may overflow.
    if (sum(first.tolist()), sum(last.tolist())) != (entry.first, entry.last):
        raise damaged(path, "sum", "first and last do not add up to the rows in the manifest")
    return Segment(entry, first, last)


def _require_layout(run: Where, segment: Segment, layout: RowLayout) -> None:
    lengths = (segment.last - segment.first).tolist()
    bounds = _below(run, _place(segment.entry, "last.npy"))
    if len(lengths) != layout.lanes:
        raise damaged(bounds, "envs", f"{len(lengths)}, but the run has {layout.lanes}")
    if max(lengths) > layout.rows:
        raise damaged(
            bounds, "rows", f"{max(lengths)} of an environment, which has room for {layout.rows}"
        )
    files = {
        file: (DTYPES[each.spec.dtype], each.spec.shape[1:])
        for file, each in segment.entry.files.items()
        if each.spec is not None and file not in ("first.npy", "last.npy")
    }
    expected = {f"{name}.npy": column for name, column in layout.columns.items()}
    for file in sorted(files.keys() | expected.keys()):
        if files.get(file) != expected.get(file):
            found, wanted = (_described(each.get(file)) for each in (files, expected))
            raise LayoutError(
                f"{_below(run, _place(segment.entry, file))}: rows are {found}, expected {wanted}",
                advice=". Has the environment changed since?",
            )


def _described(column: tuple[np.dtype, tuple[int, ...]] | None) -> str:
    return "none" if column is None else f"{column[0]} of shape {brief(column[1])}"


def _read_rows(run: Where, segment: Segment) -> Rows:
    columns = {
        file.removesuffix(".npy"): read_array(run, _place(segment.entry, file), of_file)
        for file, of_file in segment.entry.files.items()
        if file not in ("first.npy", "last.npy")
    }
    return Rows(segment.first, segment.last, columns)


def _with_offer(error: CheckpointError, run: Where, name: str | None) -> CheckpointError:
    """Returns the error, with a suggestion of another checkpoint that is intact."""
    for other in reversed(checkpoint_names(run)):
        if other != name and _is_whole(run, other):
            return CheckpointError(str(error), other)
    return error


def _is_whole(run: Where, name: str) -> bool:
    return problem_of(run, name) is None


def problem_of(run: Where, name: str) -> str | None:
    """Returns what is wrong with a checkpoint, or None. Every file is read and verified."""
    try:
        for segment in _load(run, name).listed:
            for file, of_file in segment.entry.files.items():
                check_file(run, _place(segment.entry, file), of_file)
    except CheckpointError as error:
        return str(error)
    return None
