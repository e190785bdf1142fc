"""Files that are whole or not there: written beside their place, synced, then renamed."""

import contextlib
import errno
import json
import math
import shutil
from pathlib import Path
from typing import IO, Any

from fastdqn.record.durable import replace_file


class WriteError(OSError):
    """A file of the run could not be written; the message names it and the room left.

    content  what a whole file was to hold, where that is known
    """

    content: bytes | None = None


def refused(path: Path, error: OSError, needed: int | None = None) -> WriteError:
    """The error of one line for a file that the system has refused to write.

    needed  bytes that were to be written, where there were some
    """
    room = ""
    if needed is not None:
        with contextlib.suppress(OSError):
            room = f"; {shutil.disk_usage(path.parent).free:,} bytes free, {needed:,} needed"
    return WriteError(f"cannot write {path}: {error.strerror or error}{room}")


def write_whole(path: Path, content: bytes | str) -> None:
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


def open_regular(path: Path, mode: str, errors: str = "strict") -> IO[str]:
    """Open a file as UTF-8. Raises OSError where it is a pipe, which might never answer, or else
    no regular file."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return open(path, mode, encoding="utf-8", errors=errors)


def read_text(path: Path, errors: str = "strict") -> str:
    """All of a file. Raises ValueError, one line, where it cannot be read as text.

    errors  what becomes of bytes that are no text, as open() says it
    """
    try:
        with open_regular(path, "r", errors) as file:
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
