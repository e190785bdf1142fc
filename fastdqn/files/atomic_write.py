"""Atomic writes (temporary file, sync, rename) and bounded reads of small files."""

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

# Size limits: far above what a run writes, and low enough to read safely.
MAX_TEXT_BYTES = 4 << 20  # config.json, summary.json, system.json, command.txt
MAX_ROWS_BYTES = 256 << 20  # metrics.jsonl, eval.jsonl
MAX_LINE_BYTES = 1 << 20  # one line of those


class WriteError(OSError):
    """Raised if a file cannot be written. The message names the file and the free disk space.

    Attributes:
        content: The intended content of the file, if it was to be written as a whole.
    """

    content: bytes | None = None


def refused(path: Where, error: OSError, needed: int | None = None) -> WriteError:
    """Returns a one-line WriteError for a failed write.

    Args:
        path: File that could not be written.
        error: Error of the operating system.
        needed: Number of bytes that were to be written, if known.
    """
    room = ""
    if needed is not None:
        with contextlib.suppress(OSError):
            room = (
                f"; {shutil.disk_usage(path_of(path).parent).free:,} bytes free, {needed:,} needed"
            )
    return WriteError(f"cannot write {path}: {error.strerror or error}{room}")


def write_whole(path: Where, content: bytes | str) -> None:
    """Replaces a file atomically: a crash leaves the old file or the new one.

    Raises:
        WriteError: The file cannot be written. The old file is unchanged.
    """
    # Command lines may contain bytes that are not UTF-8. They are written unchanged.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    try:
        replace_file(path, data)
    except OSError as error:
        failure = refused(path, error, len(data))
        failure.content = data
        raise failure from error


def read_text(path: Where, errors: str = "strict", follow: bool = False) -> str:
    """Returns the content of a UTF-8 file of at most MAX_TEXT_BYTES.

    Args:
        path: File to read.
        errors: Error handler for invalid UTF-8, as in open().
        follow: Whether path may be a symbolic link, such as a path given by the user.

    Raises:
        ValueError: The file cannot be read. The message is one line.
    """
    try:
        fd, info = open_file(path, os.O_RDONLY, follow)
        try:
            if info.st_size > MAX_TEXT_BYTES:
                raise ValueError(
                    f"{path}: {info.st_size:,} bytes exceed the limit of {MAX_TEXT_BYTES:,}"
                )
            # One extra byte detects a file that grows while it is read.
            data = _read(fd, MAX_TEXT_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"{path} exceeds {MAX_TEXT_BYTES:,} bytes: it grew while it was read")
    try:
        return io.TextIOWrapper(io.BytesIO(data), "utf-8", errors).read()  # line ends as in open()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from None


def read_lines(path: Where) -> Iterator[bytes]:
    """Yields the complete lines of a file. An unfinished last line is left out.

    Raises:
        ValueError: The file exceeds MAX_ROWS_BYTES, a line exceeds MAX_LINE_BYTES, or the file
            cannot be read.
    """
    try:
        fd, info = open_file(path, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        if info.st_size > MAX_ROWS_BYTES:
            raise ValueError(
                f"{path}: {info.st_size:,} bytes exceed the limit of {MAX_ROWS_BYTES:,}"
            )
        left = info.st_size  # lines appended while reading are left out
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
    """Returns value as standard JSON: NaN and infinity become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
