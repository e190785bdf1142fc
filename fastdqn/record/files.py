"""Files that are whole or not there: written beside their place, synced, then renamed."""

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

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
