"""Files and folders that outlive a power cut: each step synced before the next relies on it.

Every OSError that leaves a function here names its path.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastdqn.record.layout import TEMPORARY, FileEntry, new_hash

_CHUNK = 1 << 24  # bytes a write; ours, untuned


def write_new(path: Path, parts: Iterable[bytes | memoryview]) -> FileEntry:
    """Create a file that is not there yet from parts, and sync it; returns what was written."""
    checksum, total = new_hash(), 0
    with _naming(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o666)
        try:
            for part in parts:
                view = memoryview(part)
                while len(view):
                    count = os.write(fd, view[:_CHUNK])
                    checksum.update(view[:count])
                    total += count
                    view = view[count:]
            os.fsync(fd)
        finally:
            os.close(fd)
    return FileEntry(total, checksum.hexdigest())


def sync_existing(path: Path) -> FileEntry:
    """Sync a regular file that was written by others; returns what is in it."""
    checksum, total = new_hash(), 0
    with _naming(path):
        # Not blocking: opening a pipe that nobody writes to would hang.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while chunk := os.read(fd, _CHUNK):
                checksum.update(chunk)
                total += len(chunk)
            os.fsync(fd)
        finally:
            os.close(fd)
    return FileEntry(total, checksum.hexdigest())


def sync_file(path: Path) -> None:
    """Make what was written into a file so far last."""
    with _naming(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_folder(path: Path) -> None:
    """Make the names in a folder last."""
    with _naming(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folder(path: Path) -> None:
    """Make a folder unless it is there, so that its name lasts."""
    if not path.is_dir():
        with _naming(path):
            os.mkdir(path)
        sync_folder(path.parent)


def fresh_folder(path: Path) -> None:
    """Make an empty folder in place of whatever a crash left there."""
    if os.path.lexists(path):
        remove(path)
    with _naming(path):
        os.mkdir(path)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished folder its name. Raises FileExistsError where there is one already."""
    sync_folder(temporary)
    with _naming(path):
        if os.path.lexists(path):  # a rename would replace an empty folder
            raise FileExistsError(
                errno.EEXIST, "exists already, and is never overwritten", str(path)
            )
        os.rename(temporary, path)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Put data in path's place in one step; a crash leaves the old file or the new one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    if os.path.lexists(temporary):
        remove(temporary)
    try:
        write_new(temporary, [data])
        with _naming(path):
            os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder; what a crash leaves of it has a temporary's name."""
    with _naming(path):
        if not path.name.startswith(TEMPORARY):
            hidden = path.with_name(f"{TEMPORARY}old-{path.name}")
            os.rename(path, hidden)
            path = hidden
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
