"""Files that are whole or not there: written beside their place, synced, then renamed."""

import contextlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from typing import Any

from fastdqn.files.durable_write import replace_file
from fastdqn.files.open_folder import Where, open_file, path_of

# Bounds: ours, far above what a run writes and below what would hurt whoever reads.
MAX_TEXT_BYTES = 4 << 20  # config.json, summary.json, system.json, command.txt
MAX_ROWS_BYTES = 256 << 20  # metrics.jsonl, eval.jsonl
MAX_LINE_BYTES = 1 << 20  # a row of them


class WriteError(OSError):
    """A file of the run could not be written; the message names it and the room left.

    content  what a whole file was to hold, where that is known
    """

    content: bytes | None = None


def refused(path: Where, error: OSError, needed: int | None = None) -> WriteError:
    """The error of one line for a file that the system has refused to write.

    needed  bytes that were to be written, where there were some
    """
    room = ""
    if needed is not None:
        with contextlib.suppress(OSError):
            room = (
                f"; {shutil.disk_usage(path_of(path).parent).free:,} bytes free, {needed:,} needed"
            )
    return WriteError(f"cannot write {path}: {error.strerror or error}{room}")


def write_whole(path: Where, content: bytes | str) -> None:
    """Replace path with content in one step; a crash leaves the old file or the new one.

    Raises WriteError, one line, with the old file as it was.
    """
    # Command lines may hold bytes that are no text: they are written as they came.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    try:
        replace_file(path, data)
    except OSError as error:
        told = refused(path, error, len(data))
        told.content = data
        raise told from error


def read_text(path: Where, errors: str = "strict", follow: bool = False) -> str:
    """All of a short file, of MAX_TEXT_BYTES at most. Raises ValueError, one line.

    errors  what becomes of bytes that are no text, as open() says it
    follow  whether the path may be a symbolic link, as one that the user names
    """
    try:
        fd, info = open_file(path, os.O_RDONLY, follow)
        try:
            if info.st_size > MAX_TEXT_BYTES:
                raise ValueError(f"{path}: {info.st_size:,} bytes, {MAX_TEXT_BYTES:,} at most")
            # One byte more: a file that grows meanwhile is noticed and not followed.
            data = _read(fd, MAX_TEXT_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"{path} grows while it is read: {MAX_TEXT_BYTES:,} bytes at most")
    try:
        return io.TextIOWrapper(io.BytesIO(data), "utf-8", errors).read()  # line ends as open() has
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason}") from None


def read_lines(path: Where) -> Iterator[bytes]:
    """The whole lines of a file of rows, one at a time, without what is behind the last line end.

    Raises ValueError, one line, where the file or a line exceeds MAX_ROWS_BYTES or MAX_LINE_BYTES.
    """
    try:
        fd, info = open_file(path, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        if info.st_size > MAX_ROWS_BYTES:
            raise ValueError(f"{path}: {info.st_size:,} bytes, {MAX_ROWS_BYTES:,} at most")
        left = info.st_size  # rows that are added meanwhile are of the next reading
        while left > 0 and (line := file.readline(min(left, MAX_LINE_BYTES))):
            left -= len(line)
            if line.endswith(b"\n"):
                yield line
            elif len(line) == MAX_LINE_BYTES:
                raise ValueError(f"{path}: a line exceeds {MAX_LINE_BYTES:,} bytes")


def _read(fd: int, most: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read(most)


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
