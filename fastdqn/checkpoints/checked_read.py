"""Reading a checkpoint's files: links are not followed, nothing is allocated on a file's word.

A path is a run's folder and the names below it; each folder is opened from the one above it, so
that none can be swapped for a link in between.
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
from fastdqn.checkpoints.safetensors_file import lack_of_memory
from fastdqn.files.checksum import digest, new_hash
from fastdqn.files.open_folder import Place, Where, lstat, open_file, open_folder, path_of
from fastdqn.text import brief

_CHUNK = 1 << 20  # bytes hashed at a time; ours, untuned
_NPY_HEADER_BYTES = 4096  # what a header of ours, 128 bytes, never reaches
_TENSOR_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip


def read_latest(run: Where) -> str:
    """Name of the newest checkpoint. Raises CheckpointError; FileNotFoundError without one."""
    file = run / "checkpoints" / "latest"
    if _is_missing(file):
        raise FileNotFoundError(errno.ENOENT, "there is no checkpoint yet", str(file))
    with _opened(run, "checkpoints", "latest") as (fd, size, path):
        data = os.read(fd, 64)
    name = data.decode("ascii", "replace").removesuffix("\n")
    if size > 64 or STEP.fullmatch(name) is None:
        raise damaged(path, "name", f"{brief(name)} is no checkpoint's name")
    return name


def read_manifest(run: Where, name: str) -> Manifest:
    """The manifest of checkpoint name, checked. Raises CheckpointError."""
    with _opened(run, "checkpoints", name, "manifest.json") as (fd, size, path):
        if size > MAX_MANIFEST_BYTES:
            raise damaged(path, "size", f"{size:,} bytes, {MAX_MANIFEST_BYTES:,} at most")
        # One byte more: a file that grows meanwhile is noticed and not followed.
        with open(fd, "rb", closefd=False) as file:
            data = file.read(size + 1)
    if len(data) != size:
        raise damaged(path, "size", "changed while it was read")
    manifest = parse_manifest(data, path)
    if name != step_name(manifest.steps):
        raise damaged(path, "steps", f"{manifest.steps} is not what the folder is called")
    return manifest


def read_file(run: Where, names: tuple[str, ...], entry: FileEntry) -> bytes:
    """The bytes of a file with the size and checksum of entry. Raises CheckpointError."""
    with _opened(run, *names) as (fd, size, path):
        return _read(fd, size, path, entry)


def check_size(run: Where, names: tuple[str, ...], entry: FileEntry) -> None:
    """See that a file is there and has the size of entry. Raises CheckpointError."""
    with _opened(run, *names) as (_, size, path):
        _same_size(size, path, entry)


def check_file(run: Where, names: tuple[str, ...], entry: FileEntry) -> None:
    """Hash a file of any size in a little memory. Raises CheckpointError if it is another."""
    with _opened(run, *names) as (fd, size, path):
        _same_size(size, path, entry)
        checksum = new_hash()
        while chunk := os.read(fd, _CHUNK):
            checksum.update(chunk)
    if checksum.hexdigest() != entry.blake2b:
        raise damaged(path, "blake2b", "the checksum is not the manifest's")


def read_array(run: Where, names: tuple[str, ...], entry: FileEntry) -> np.ndarray:
    """The array of a .npy file, as entry says it is. Raises CheckpointError."""
    spec = entry.spec
    assert spec is not None
    with _opened(run, *names) as (fd, size, path):
        _same_size(size, path, entry)
        _require_memory(size, path)
        head = os.pread(fd, _NPY_HEADER_BYTES, 0)
        start = _npy_start(head, spec, path)
        if start + spec.nbytes != size:
            raise damaged(path, "size", f"{size:,} bytes are not those of shape {spec.shape}")
        array = np.empty(spec.shape, DTYPES[spec.dtype])
        checksum = new_hash(head[:start])
        os.lseek(fd, start, os.SEEK_SET)
        _fill(fd, array.reshape(-1).view(np.uint8), checksum, path)
    if checksum.hexdigest() != entry.blake2b:
        raise damaged(path, "blake2b", "the checksum is not the manifest's")
    return array


def read_tensors(
    run: Where, names: tuple[str, ...], entry: FileEntry, specs: dict[str, ArraySpec]
) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, exactly those of specs. Raises CheckpointError."""
    with _opened(run, *names) as (fd, size, path):
        header = int.from_bytes(os.pread(fd, 8, 0), "little")
        content = sum(spec.nbytes for spec in specs.values())
        if header > MAX_MANIFEST_BYTES:
            raise damaged(path, "header", f"{header:,} bytes, {MAX_MANIFEST_BYTES:,} at most")
        if size != entry.bytes or 8 + header + content != size:
            raise damaged(
                path, "size", f"{size:,} bytes, {entry.bytes:,} and {content:,} of tensors expected"
            )
        data = _read(fd, size, path, entry)
    try:
        found = dict(safetensors.deserialize(data))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise damaged(path, "header", f"is no safetensors header: {error}") from None
    for name in sorted(found.keys() ^ specs.keys()):
        problem = "is in the file only" if name in found else "is missing"
        raise damaged(path, brief(name), problem)
    return {name: _tensor(found[name], spec, path, name) for name, spec in specs.items()}


def _tensor(found: dict[str, Any], spec: ArraySpec, path: Where, name: str) -> np.ndarray:
    dtype, shape = _TENSOR_DTYPES.get(found["dtype"], found["dtype"]), tuple(found["shape"])
    if (dtype, shape) != spec:
        raise damaged(
            path, name, f"is {dtype} {brief(shape)}, the manifest has {spec.dtype} {spec.shape}"
        )
    return np.frombuffer(found["data"], DTYPES[spec.dtype]).reshape(shape).copy()


def _npy_start(head: bytes, spec: ArraySpec, path: Where) -> int:
    """Where the array begins, if the header announces just spec."""
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} is not (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, _NPY_HEADER_BYTES)
    except Exception as error:  # what a parser of literals makes of evil text, it does not say
        raise damaged(path, "header", f"is no .npy header: {brief(str(error))}") from None
    if dtype.hasobject or dtype != DTYPES[spec.dtype] or fortran:
        raise damaged(path, "dtype", f"{dtype} is not {spec.dtype} in C order")
    if shape != spec.shape:
        raise damaged(path, "shape", f"{brief(shape)} is not {spec.shape}")
    return file.tell()


@contextlib.contextmanager
def _opened(run: Where, *names: str) -> Iterator[tuple[int, int, Where]]:
    """A regular file below run: (descriptor, size, path). Raises CheckpointError."""
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
    except OSError:  # said by whoever opens it
        return False


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "does not exist"
    if error.errno == errno.EINVAL:
        return "is not a regular file"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "is a symbolic link, or not a folder where one is expected"
    return f"cannot be read: {error.strerror}"


def _same_size(size: int, path: Where, entry: FileEntry) -> None:
    if size != entry.bytes:
        raise damaged(path, "size", f"{size:,} bytes, the manifest has {entry.bytes:,}")


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
        raise damaged(path, "blake2b", "the checksum is not the manifest's")
    return data


def _fill(fd: int, target: Any, checksum: Any, path: Where) -> None:
    """Read just len(target) bytes into target, hashing on the way."""
    view, at = memoryview(target), 0
    while at < len(view):
        count = os.readv(fd, [view[at : at + _CHUNK]])
        if count == 0:
            raise damaged(path, "size", "the file ends early")
        checksum.update(view[at : at + count])
        at += count
