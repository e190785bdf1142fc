"""Manifest of a checkpoint: its files, with the size and checksum of each.

The first line contains the checksum of the following lines. All lines are one JSON object.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdqn.checkpoints.format import (
    COLUMN,
    FORMAT,
    MAX_ARRAY_BYTES,
    MAX_MANIFEST_BYTES,
    SEGMENT,
    TENSOR,
    ArraySpec,
    FileEntry,
    damaged,
)
from fastdqn.checkpoints.state_codec import read_spec
from fastdqn.files.checksum import digest
from fastdqn.text import brief

_FIRST_LINE = re.compile(rb'\{"blake2b": "([0-9a-f]{32})",')
_DIGEST = re.compile(r"[0-9a-f]{32}")
_FIELDS = {"blake2b", "format", "steps", "config", "state", "weights", "files", "segments"}
_FILES = {"weights.safetensors", "state.safetensors"}
_MAX_STEPS = 10**12
_MAX_ROWS = 1 << 62
_MAX_LANES = 1 << 22  # the bounds of all lanes are read at once


class SegmentEntry(NamedTuple):
    """Files of a segment. first and last are sums over lanes of the bounds of its rows."""

    name: str
    first: int
    last: int
    files: dict[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        files = {name: entry.to_json() for name, entry in self.files.items()}
        return {"name": self.name, "first": self.first, "last": self.last, "files": files}


class Segment(NamedTuple):
    """Segment on disk: its entry, and int64[N] bounds of its rows in each lane."""

    entry: SegmentEntry
    first: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json. state is encoded, see state_codec.py."""

    steps: int
    config: dict[str, Any]
    state: dict[str, Any]
    weights: dict[str, ArraySpec]
    files: dict[str, FileEntry]
    segments: tuple[SegmentEntry, ...]

    def to_bytes(self) -> bytes:
        """Returns the manifest as JSON. Raises ValueError if it exceeds MAX_MANIFEST_BYTES."""
        body = {
            "format": FORMAT,
            "steps": self.steps,
            "config": self.config,
            "state": self.state,
            "weights": {name: spec.to_json() for name, spec in self.weights.items()},
            "files": {name: entry.to_json() for name, entry in self.files.items()},
            "segments": [segment.to_json() for segment in self.segments],
        }
        # ASCII: a string may contain characters that UTF-8 cannot encode.
        data = json.dumps(body, allow_nan=False).encode("ascii")[1:] + b"\n"
        whole = b'{"blake2b": "%s",\n' % digest(data).encode() + data
        if len(whole) > MAX_MANIFEST_BYTES:
            raise ValueError(
                f"the manifest has {len(whole):,} bytes, limit {MAX_MANIFEST_BYTES:,}: "
                "store long lists as arrays"
            )
        return whole


def parse_manifest(data: bytes, file: object) -> Manifest:
    """Parses and validates a manifest. Raises CheckpointError naming file."""
    first, _, rest = data.partition(b"\n")
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        raise damaged(file, "blake2b", "the first line is not a checksum")
    if match[1].decode() != digest(rest):
        raise damaged(file, "blake2b", "the checksum does not match the content")
    fields = _parse_json(data, file)
    version = fields.get("format")
    if type(version) is int and version > FORMAT:
        raise damaged(
            file,
            "format",
            f"{version} is newer than this fastdqn, which reads {FORMAT}: upgrade fastdqn",
        )
    if type(version) is not int or version != FORMAT:
        raise damaged(file, "format", f"{brief(version)} is unknown, this version reads {FORMAT}")
    if fields.keys() != _FIELDS:
        odd = sorted(fields.keys() ^ _FIELDS)
        raise damaged(file, brief(odd[0]), "is missing or unknown")
    for name in ("config", "state", "weights", "files"):
        if not isinstance(fields[name], dict):
            raise damaged(file, name, f"is {brief(fields[name])}, not an object")
    return Manifest(
        _count(fields["steps"], _MAX_STEPS, file, "steps"),
        fields["config"],
        fields["state"],
        _weights(fields["weights"], file),
        _files(fields["files"], file),
        _segments(fields["segments"], file),
    )


def _parse_json(data: bytes, file: object) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("duplicate key")
        return found

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data.decode("ascii"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise damaged(file, "content", f"is not a JSON object: {error}") from None


def _count(value: Any, limit: int, file: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise damaged(file, where, f"is {brief(value)}, not an integer in [0, {limit})")
    return value


def _weights(entries: dict[str, Any], file: object) -> dict[str, ArraySpec]:
    for name, entry in entries.items():
        if TENSOR.fullmatch(name) is None:
            raise damaged(file, "weights", f"{brief(name)} is not the name of a tensor")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape"}:
            raise damaged(file, f"weights.{name}", "is not a dtype and a shape")
    return {name: read_spec(entry, file, f"weights.{name}") for name, entry in entries.items()}


def _files(entries: dict[str, Any], file: object) -> dict[str, FileEntry]:
    if entries.keys() - {"best.safetensors"} != _FILES:
        raise damaged(file, "files", f"are {brief(sorted(entries))}, not weights, state and best")
    return {name: _file(entry, file, f"files.{name}", False) for name, entry in entries.items()}


def _file(entry: Any, file: object, where: str, holds_array: bool) -> FileEntry:
    keys = {"bytes", "blake2b"} | ({"dtype", "shape"} if holds_array else set())
    if not isinstance(entry, dict) or entry.keys() != keys:
        raise damaged(file, where, f"is not an object of {', '.join(sorted(keys))}")
    checksum = entry["blake2b"]
    if not isinstance(checksum, str) or _DIGEST.fullmatch(checksum) is None:
        raise damaged(file, f"{where}.blake2b", "is not a checksum")
    size = _count(entry["bytes"], MAX_ARRAY_BYTES, file, f"{where}.bytes")
    return FileEntry(size, checksum, read_spec(entry, file, where) if holds_array else None)


def _segments(entries: Any, file: object) -> tuple[SegmentEntry, ...]:
    if not isinstance(entries, list):
        raise damaged(file, "segments", f"is {brief(entries)}, not a list")
    segments = tuple(_segment(entry, file, f"segments[{i}]") for i, entry in enumerate(entries))
    names = [segment.name for segment in segments]
    if names != sorted(set(names)):
        raise damaged(file, "segments", "are out of order, or contain a duplicate")
    if len({segment.files["first.npy"].spec for segment in segments}) > 1:
        raise damaged(file, "segments", "differ in the number of environments")
    return segments


def _segment(entry: Any, file: object, where: str) -> SegmentEntry:
    if not isinstance(entry, dict) or entry.keys() != {"name", "first", "last", "files"}:
        raise damaged(file, where, "is not an object of name, first, last, files")
    name, files = entry["name"], entry["files"]
    if not isinstance(name, str) or SEGMENT.fullmatch(name) is None:
        raise damaged(file, f"{where}.name", f"{brief(name)} is not the name of a segment")
    if not isinstance(files, dict) or not {"first.npy", "last.npy"} <= files.keys():
        raise damaged(file, f"{where}.files", "do not contain first.npy and last.npy")
    for each in files:
        if not each.endswith(".npy") or COLUMN.fullmatch(each.removesuffix(".npy")) is None:
            raise damaged(file, f"{where}.files", f"{brief(each)} is not the file of a column")
    parsed = {key: _file(files[key], file, f"{where}.files.{key}", True) for key in files}
    first = _count(entry["first"], _MAX_ROWS, file, f"{where}.first")
    last = _count(entry["last"], _MAX_ROWS, file, f"{where}.last")
    for each, column in parsed.items():
        assert column.spec is not None
        if each in ("first.npy", "last.npy"):
            fits = column.spec == parsed["first.npy"].spec
            fits = fits and column.spec.dtype == "int64" and len(column.spec.shape) == 1
            fits = fits and column.spec.shape[0] <= _MAX_LANES
        else:
            fits = column.spec.shape[:1] == (last - first,)
        if not fits:
            raise damaged(file, f"{where}.files.{each}", "its shape does not match its rows")
    return SegmentEntry(name, first, last, parsed)
