"""Durable writes: create, replace, rename and remove files and folders, synced to disk.

Each step is synced before the next one depends on it. Every OSError names its path.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator

from fastdqn.files.checksum import FileChecksum, new_hash
from fastdqn.files.open_folder import Where, allow_change, changing, lstat, open_file, open_folder

TEMPORARY = ".tmp-"  # prefix of the names of unfinished files and folders
_CHUNK = 1 << 24  # bytes per write; not tuned
# Errors of file systems that cannot sync folders, or cannot sync at all.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def write_new(path: Where, parts: Iterable[bytes | memoryview]) -> FileChecksum:
    """Creates a file from parts and syncs it. Raises FileExistsError if it exists."""
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
    """Syncs a regular file that is already written, and returns its size and checksum."""
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
    """Syncs a file."""
    with _naming(path):
        fd, _ = open_file(path, os.O_RDONLY)
        try:
            sync(fd)
        finally:
            os.close(fd)


def sync_folder(path: Where) -> None:
    """Syncs the entries of a folder."""
    with _naming(path):
        fd = open_folder(path)
        try:
            sync(fd)
        finally:
            os.close(fd)


def sync(fd: int) -> None:
    """Calls fsync, if the file system supports it. Raises OSError if the data was not written."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def make_folder(path: Where) -> None:
    """Creates a folder unless it exists, and syncs its parent."""
    with _naming(path), changing(path) as (folder, name):
        try:
            os.mkdir(name, dir_fd=folder)
        except FileExistsError:
            os.close(os.open(name, _ONLY_FOLDER, dir_fd=folder))
            return
    sync_folder(path.parent)


_ONLY_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fresh_folder(path: Where) -> None:
    """Creates an empty folder. Anything that a crash left there is removed."""
    if exists(path):
        remove(path)
    with _naming(path), changing(path) as (folder, name):
        os.mkdir(name, dir_fd=folder)


def publish(temporary: Where, path: Where) -> None:
    """Syncs a finished folder and renames it to path, in the same parent folder.

    Raises:
        FileExistsError: path exists.
    """
    sync_folder(temporary)
    with _naming(path), changing(path) as (folder, name):
        if _is_there(folder, name):  # a rename would replace an empty folder
            raise FileExistsError(
                errno.EEXIST, "already exists and is never overwritten", str(path)
            )
        os.rename(temporary.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    sync_folder(path.parent)


def replace_file(path: Where, data: bytes) -> None:
    """Replaces a file atomically: a crash leaves the old file or the new one."""
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
    """Returns whether path exists. A broken symbolic link exists, too. Raises OSError."""
    with _naming(path):
        return lstat(path) is not None


def remove(path: Where) -> None:
    """Deletes a file or a folder. It is renamed first, so that a crash leaves a temporary name."""
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
    """Moves a file, which may be to another folder."""
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
    """Sets the full path in an OSError: calls with dir_fd know only the last name."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
