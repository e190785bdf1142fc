"""From a snapshot in memory to a checkpoint on disk, in an order that a crash cannot hurt."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from fastdqn.checkpoints.format import FileEntry, step_name
from fastdqn.checkpoints.manifest import Manifest, Segment, SegmentEntry
from fastdqn.checkpoints.state_codec import spec_of
from fastdqn.files.durable_write import (
    TEMPORARY,
    exists,
    fresh_folder,
    move,
    publish,
    remove,
    replace_file,
    sync_existing,
    write_new,
)
from fastdqn.files.open_folder import Where, changing, open_file, parent_of
from fastdqn.state_dict import Rows

_CHUNK = 1 << 24  # bytes copied at a time; ours, untuned


@dataclass(frozen=True)
class Snapshot:
    """What one checkpoint stores; its arrays are nobody else's.

    state, arrays  see tree.py
    rows           those since the last segment; None: a checkpoint without the replay
    oldest         [N] int64, the oldest row of each lane that is still of use
    best           a file below checkpoints/ that becomes the checkpoint's, or None
    """

    steps: int
    state: dict[str, Any]
    arrays: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    rows: Rows | None
    oldest: np.ndarray
    best: Where | None

    @property
    def nbytes(self) -> int:
        arrays = [*self.arrays.values(), *self.weights.values()]
        if self.rows is not None:
            arrays += [self.rows.first, self.rows.last, *self.rows.columns.values()]
        return sum(array.nbytes for array in arrays)


def take_best(root: Where, best: Where) -> Where:
    """Hold on to a file that may be replaced any time: a hard link, or a copy. OSError."""
    held = root / f"{TEMPORARY}best"
    if exists(held):
        remove(held)
    fd, _ = open_file(best, os.O_RDONLY)  # no link, and a regular file
    try:
        with parent_of(best) as source, changing(held) as target:
            os.link(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])
    except OSError:  # a file system without links
        write_new(held, _chunks(fd))
    finally:
        os.close(fd)
    return held


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, _CHUNK):
        yield chunk


def write_segment(root: Where, name: str, rows: Rows) -> Segment:
    """Make segments/NAME of rows. Raises OSError naming the path."""
    folder = root / "segments" / name
    temporary = folder.with_name(TEMPORARY + name)
    fresh_folder(temporary)
    files = {}
    for column, array in {"first": rows.first, "last": rows.last, **rows.columns}.items():
        written = write_new(temporary / f"{column}.npy", _npy(array))
        files[f"{column}.npy"] = FileEntry(*written, spec_of(array))
    publish(temporary, folder)
    entry = SegmentEntry(name, int(rows.first.sum()), int(rows.last.sum()), files)
    return Segment(entry, rows.first, rows.last)


def write_checkpoint(
    root: Where, snapshot: Snapshot, config: dict[str, Any], segments: list[Segment]
) -> str:
    """Make the checkpoint's folder; returns its name. Raises OSError naming the path."""
    name = step_name(snapshot.steps)
    temporary = root / f"{TEMPORARY}{name}"
    fresh_folder(temporary)
    files = {
        file: FileEntry(*write_new(temporary / file, [safetensors.numpy.save(arrays)]))
        for file, arrays in (
            ("weights.safetensors", snapshot.weights),
            ("state.safetensors", snapshot.arrays),
        )
    }
    if snapshot.best is not None:
        move(snapshot.best, temporary / "best.safetensors")
        files["best.safetensors"] = FileEntry(*sync_existing(temporary / "best.safetensors"))
    manifest = Manifest(
        snapshot.steps,
        config,
        snapshot.state,
        {key: spec_of(array) for key, array in snapshot.weights.items()},
        files,
        tuple(segment.entry for segment in segments),
    )
    write_new(temporary / "manifest.json", [manifest.to_bytes()])
    publish(temporary, root / name)
    return name


def set_latest(root: Where, name: str) -> None:
    """From here on a reader finds checkpoint name."""
    replace_file(root / "latest", name.encode() + b"\n")


def _npy(array: np.ndarray) -> Iterator[bytes | memoryview]:
    header = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    yield array.reshape(-1).view(np.uint8).data
