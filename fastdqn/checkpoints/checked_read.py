"""Checked reads of checkpoint files: no links, no pickle, sizes verified before allocation.

A file is given by the run folder and the names below it. Each folder is opened relative to its
parent, so that none can be replaced by a link in between.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors

from fastdqn.checkpoints.format import (
    DTYPES,
    MAX_MANIFEST_BYTES,
    STEP,
    ArraySpec,
    FileEntry,
    damaged,
    step_name,
)
from fastdqn.checkpoints.manifest import Manifest, parse_manifest
from fastdqn.checkpoints.open_safetensors import lack_of_memory
from fastdqn.files.checksum import digest, new_hash
from fastdqn.files.open_folder import Place, Where, lstat, open_file, open_folder, path_of
from fastdqn.text import brief

_CHUNK = 1 << 20  # bytes hashed at a time; not tuned
_NPY_HEADER_BYTES = 4096  # limit of a header; those written here have 128 bytes
_TENSOR_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip


def read_latest(run: Where) -> str:
    """Returns the name of the latest checkpoint.

    Raises:
        FileNotFoundError: There is no checkpoint yet.
        CheckpointError: The file `latest` is damaged.
    """
    file = run / "checkpoints" / "latest"
    if _is_missing(file):
        raise FileNotFoundError(errno.ENOENT, "there is no checkpoint yet", str(file))
    with _opened(run, "checkpoints", "latest") as (fd, size, path):
        data = os.read(fd, 64)
    name = data.decode("ascii", "replace").removesuffix("\n")
    if size > 64 or STEP.fullmatch(name) is None:
        raise damaged(path, "name", f"{brief(name)} is not the name of a checkpoint")
    return name


def read_manifest(run: Where, name: str) -> Manifest:
    """Returns the validated manifest of a checkpoint. Raises CheckpointError."""
    with _opened(run, "checkpoints", name, "manifest.json") as (fd, size, path):
        if size > MAX_MANIFEST_BYTES:
            raise damaged(
                path, "size", f"{size:,} bytes exceed the limit of {MAX_MANIFEST_BYTES:,}"
            )
        # One extra byte detects a file that grows while it is read.
        with open(fd, "rb", closefd=False) as file:
            data = file.read(size + 1)
    if len(data) != size:
        raise damaged(path, "size", "changed while it was read")
    manifest = parse_manifest(data, path)
    if name != step_name(manifest.steps):
        raise damaged(path, "steps", f"{manifest.steps} does not match the name of the folder")
    return manifest


def read_file(run: Where, names: tuple[str, ...], entry: FileEntry) -> bytes:
    """Returns the content of a file, verified against entry. Raises CheckpointError."""
    with _opened(run, *names) as (fd, size, path):
        return _read(fd, size, path, entry)


def check_size(run: Where, names: tuple[str, ...], entry: FileEntry) -> None:
    """Checks that a file exists and has the size of entry. Raises CheckpointError."""
    with _opened(run, *names) as (_, size, path):
        _same_size(size, path, entry)


def check_file(run: Where, names: tuple[str, ...], entry: FileEntry) -> None:
    """Checks the size and checksum of a file, in chunks. Raises CheckpointError."""
    with _opened(run, *names) as (fd, size, path):
        _same_size(size, path, entry)
        checksum = new_hash()
        while chunk := os.read(fd, _CHUNK):
            checksum.update(chunk)
    if checksum.hexdigest() != entry.blake2b:
        raise damaged(path, "blake2b", "the checksum differs from the manifest")


def read_array(run: Where, names: tuple[str, ...], entry: FileEntry) -> np.ndarray:
    """Returns the array of a .npy file, verified against entry. Raises CheckpointError."""
    spec = entry.spec
    assert spec is not None
    with _opened(run, *names) as (fd, size, path):
        _same_size(size, path, entry)
        _require_memory(size, path)
        head = os.pread(fd, _NPY_HEADER_BYTES, 0)
        start = _npy_start(head, spec, path)
        if start + spec.nbytes != size:
            raise damaged(path, "size", f"{size:,} bytes do not match shape {spec.shape}")
        array = np.empty(spec.shape, DTYPES[spec.dtype])
        checksum = new_hash(head[:start])
        os.lseek(fd, start, os.SEEK_SET)
        _fill(fd, array.reshape(-1).view(np.uint8), checksum, path)
    if checksum.hexdigest() != entry.blake2b:
        raise damaged(path, "blake2b", "the checksum differs from the manifest")
    return array


def read_tensors(
    run: Where, names: tuple[str, ...], entry: FileEntry, specs: dict[str, ArraySpec]
) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, exactly those of specs.

    Raises:
        CheckpointError: The file is damaged, or differs from entry or specs.
    """
    with _opened(run, *names) as (fd, size, path):
        header = int.from_bytes(os.pread(fd, 8, 0), "little")
        content = sum(spec.nbytes for spec in specs.values())
        if header > MAX_MANIFEST_BYTES:
            raise damaged(
                path, "header", f"{header:,} bytes exceed the limit of {MAX_MANIFEST_BYTES:,}"
            )
        if size != entry.bytes or 8 + header + content != size:
            raise damaged(
                path,
                "size",
                f"{size:,} bytes, expected {entry.bytes:,} with {content:,} of tensors",
            )
        data = _read(fd, size, path, entry)
    try:
        found = dict(safetensors.deserialize(data))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise damaged(path, "header", f"is not a safetensors header: {error}") from None
    for name in sorted(found.keys() ^ specs.keys()):
        problem = "is not in the manifest" if name in found else "is missing"
        raise damaged(path, brief(name), problem)
    return {name: _tensor(found[name], spec, path, name) for name, spec in specs.items()}


def _tensor(found: dict[str, Any], spec: ArraySpec, path: Where, name: str) -> np.ndarray:
    dtype, shape = _TENSOR_DTYPES.get(found["dtype"], found["dtype"]), tuple(found["shape"])
    if (dtype, shape) != spec:
        raise damaged(
            path, name, f"is {dtype} {brief(shape)}, but {spec.dtype} {spec.shape} in the manifest"
        )
    return np.frombuffer(found["data"], DTYPES[spec.dtype]).reshape(shape).copy()


def _npy_start(head: bytes, spec: ArraySpec, path: Where) -> int:
    """Returns the offset of the array data, after checking the header against spec."""
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} is not (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, _NPY_HEADER_BYTES)
    except Exception as error:  # the errors of the parser for malicious text are not documented
        raise damaged(path, "header", f"is not a .npy header: {brief(str(error))}") from None
    if dtype.hasobject or dtype != DTYPES[spec.dtype] or fortran:
        raise damaged(path, "dtype", f"{dtype} is not {spec.dtype} in C order")
    if shape != spec.shape:
        raise damaged(path, "shape", f"{brief(shape)} is not {spec.shape}")
    return file.tell()


@contextlib.contextmanager
def _opened(run: Where, *names: str) -> Iterator[tuple[int, int, Where]]:
    """Yields (file descriptor, size, path) of a regular file below run. Raises CheckpointError."""
    path, opened = run, []
    try:
        opened.append(open_folder(run))
        for name in names[:-1]:
            path = path / name
            opened.append(open_folder(Place(opened[-1], path_of(path).parent, (name,))))
        path = path / names[-1]
        fd, info = open_file(Place(opened[-1], path_of(path).parent, names[-1:]), os.O_RDONLY)
        opened.append(fd)
        yield fd, info.st_size, path
    except OSError as error:
        raise damaged(path, "file", _reason(error)) from None
    except MemoryError:
        raise damaged(path, "size", "does not fit into memory") from None
    finally:
        for each in opened:
            os.close(each)


def _is_missing(file: Where) -> bool:
    try:
        return lstat(file) is None
    except OSError:  # reported when the file is opened
        return False


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "does not exist"
    if error.errno == errno.EINVAL:
        return "is not a regular file"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "is a symbolic link, or a part of its path is not a folder"
    return f"cannot be read: {error.strerror}"


def _same_size(size: int, path: Where, entry: FileEntry) -> None:
    if size != entry.bytes:
        raise damaged(path, "size", f"{size:,} bytes, but {entry.bytes:,} in the manifest")


def _require_memory(size: int, path: Where) -> None:
    if problem := lack_of_memory(size):
        raise damaged(path, "size", problem)


def _read(fd: int, size: int, path: Where, entry: FileEntry) -> bytes:
    _same_size(size, path, entry)
    _require_memory(size, path)
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        data = file.read(size)
    if digest(data) != entry.blake2b:
        raise damaged(path, "blake2b", "the checksum differs from the manifest")
    return data


def _fill(fd: int, target: Any, checksum: Any, path: Where) -> None:
    """Reads len(target) bytes into target and updates the checksum."""
    view, at = memoryview(target), 0
    while at < len(view):
        count = os.readv(fd, [view[at : at + _CHUNK]])
        if count == 0:
            raise damaged(path, "size", "the file ends early")
        checksum.update(view[at : at + count])
        at += count
