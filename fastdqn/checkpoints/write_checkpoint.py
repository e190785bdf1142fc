"""Writes a snapshot as a checkpoint, in an order that is safe against crashes."""

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

_CHUNK = 1 << 24  # bytes copied at a time; not tuned


@dataclass(frozen=True)
class Snapshot:
    """Content of one checkpoint. Nothing else writes to its arrays.

    Attributes:
        steps: Number of environment steps made.
        state: Encoded state, see state_codec.py.
        arrays: Arrays of the state by name.
        weights: Weights of the network by name.
        rows: Replay rows since the last segment. None: a checkpoint without the replay buffer.
        oldest: int64[N], the oldest row of each lane that is still in the replay buffer.
        best: File below checkpoints/ to move into the checkpoint, or None.
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
    """Makes a hard link to a file that may be replaced at any time, or a copy. Raises OSError."""
    held = root / f"{TEMPORARY}best"
    if exists(held):
        remove(held)
    fd, _ = open_file(best, os.O_RDONLY)  # rejects links and irregular files
    try:
        with parent_of(best) as source, changing(held) as target:
            os.link(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])
    except OSError:  # a file system without hard links
        write_new(held, _chunks(fd))
    finally:
        os.close(fd)
    return held


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, _CHUNK):
        yield chunk


def write_segment(root: Where, name: str, rows: Rows) -> Segment:
    """Writes rows as segments/NAME. Raises OSError naming the path."""
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
    """Writes the folder of a checkpoint and returns its name. Raises OSError naming the path."""
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
    """Makes a checkpoint the latest, which readers find."""
    replace_file(root / "latest", name.encode() + b"\n")


def _npy(array: np.ndarray) -> Iterator[bytes | memoryview]:
    header = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    yield array.reshape(-1).view(np.uint8).data
