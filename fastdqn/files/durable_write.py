"""Files and folders that outlive a power cut: each step synced before the next relies on it.

Every OSError that leaves a function here names its path.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator

from fastdqn.files.checksum import FileChecksum, new_hash
from fastdqn.files.open_folder import Where, allow_change, changing, lstat, open_file, open_folder

TEMPORARY = ".tmp-"  # how the name of everything unfinished begins
_CHUNK = 1 << 24  # bytes a write; ours, untuned
# What file systems answer that cannot sync a folder, or anything: there is nothing else to do.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def write_new(path: Where, parts: Iterable[bytes | memoryview]) -> FileChecksum:
    """Create a file that is not there yet from parts, and sync it; returns what was written."""
    checksum, total = new_hash(), 0
    with _naming(path), changing(path) as (folder, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o666, dir_fd=folder)
        try:
            for part in parts:
                view = memoryview(part)
                while len(view):
                    count = os.write(fd, view[:_CHUNK])
                    checksum.update(view[:count])
                    total += count
                    view = view[count:]
            sync(fd)
        finally:
            os.close(fd)
    return FileChecksum(total, checksum.hexdigest())


def sync_existing(path: Where) -> FileChecksum:
    """Sync a regular file that was written by others; returns what is in it."""
    checksum, total = new_hash(), 0
    with _naming(path):
        fd, _ = open_file(path, os.O_RDONLY)
        try:
            while chunk := os.read(fd, _CHUNK):
                checksum.update(chunk)
                total += len(chunk)
            sync(fd)
        finally:
            os.close(fd)
    return FileChecksum(total, checksum.hexdigest())


def sync_file(path: Where) -> None:
    """Make what was written into a file so far last."""
    with _naming(path):
        fd, _ = open_file(path, os.O_RDONLY)
        try:
            sync(fd)
        finally:
            os.close(fd)


def sync_folder(path: Where) -> None:
    """Make the names in a folder last."""
    with _naming(path):
        fd = open_folder(path)
        try:
            sync(fd)
        finally:
            os.close(fd)


def sync(fd: int) -> None:
    """fsync, where the file system has it. Raises OSError where the data did not reach the disk."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def make_folder(path: Where) -> None:
    """Make a folder unless it is there, so that its name lasts."""
    with _naming(path), changing(path) as (folder, name):
        try:
            os.mkdir(name, dir_fd=folder)
        except FileExistsError:
            os.close(os.open(name, _ONLY_FOLDER, dir_fd=folder))
            return
    sync_folder(path.parent)


_ONLY_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fresh_folder(path: Where) -> None:
    """Make an empty folder in place of whatever a crash left there."""
    if exists(path):
        remove(path)
    with _naming(path), changing(path) as (folder, name):
        os.mkdir(name, dir_fd=folder)


def publish(temporary: Where, path: Where) -> None:
    """Give a finished folder its name, in the same folder. Raises FileExistsError where there is
    one already."""
    sync_folder(temporary)
    with _naming(path), changing(path) as (folder, name):
        if _is_there(folder, name):  # a rename would replace an empty folder
            raise FileExistsError(
                errno.EEXIST, "exists already, and is never overwritten", str(path)
            )
        os.rename(temporary.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    sync_folder(path.parent)


def replace_file(path: Where, data: bytes) -> None:
    """Put data in path's place in one step; a crash leaves the old file or the new one."""
    allow_change(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    if exists(temporary):
        remove(temporary)
    try:
        write_new(temporary, [data])
        with _naming(path), changing(path) as (folder, name):
            os.replace(temporary.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    sync_folder(path.parent)


def exists(path: Where) -> bool:
    """Whether there is anything of this name, be it a broken link. Raises OSError."""
    with _naming(path):
        return lstat(path) is not None


def remove(path: Where) -> None:
    """Delete a file or a folder; what a crash leaves of it has a temporary's name."""
    with _naming(path), changing(path) as (folder, name):
        if not name.startswith(TEMPORARY):
            hidden = f"{TEMPORARY}old-{name}"
            os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
            name = hidden
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def move(path: Where, to: Where) -> None:
    """Rename a file, over another folder's border where need be."""
    with _naming(path), changing(path) as source, changing(to) as target:
        os.rename(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _naming(path: Where) -> Iterator[None]:
    """Errors of calls below a folder's descriptor know the last name only."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
