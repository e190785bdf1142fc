"""Files that are whole or not there: written beside their place, synced, then renamed."""

import contextlib
import errno
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fastdqn.record.durable import replace_file


class WriteError(OSError):
    """A file of the run could not be written; the message names it and the room left."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace path with content in one step; a crash leaves the old file or the new one.

    Raises WriteError, one line, with the old file as it was.
    """
    # Command lines may hold bytes that are no text: they are written as they came.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    try:
        replace_file(path, data)
    except OSError as error:
        room = ""
        with contextlib.suppress(OSError):
            room = f"; {shutil.disk_usage(path.parent).free:,} bytes free, {len(data):,} needed"
        raise WriteError(f"cannot write {path}: {error.strerror}{room}") from error


def open_regular(path: Path, mode: str) -> IO[str]:
    """Open a file as UTF-8. Raises OSError where it is a pipe, which might never answer, or else
    no regular file."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return open(path, mode, encoding="utf-8")


def open_append(path: Path) -> IO[str]:
    """Open a file to write at its end. Raises WriteError."""
    try:
        return open_regular(path, "a")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writes into an open file: an OSError becomes a WriteError that names it."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """All of a file. Raises ValueError, one line, where it cannot be read as text."""
    try:
        with open_regular(path, "r") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason}") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinity become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
