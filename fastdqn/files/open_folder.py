"""Place: path below an open folder, and functions that open files without following links.

Names are resolved from file descriptors, folder by folder. If the folder is moved, its files move
with it, and nothing is written to a new folder at the old path.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _allow() -> None:
    """Default guard: allows every change."""


@dataclass(frozen=True)
class Place:
    """Path below an open folder.

    Attributes:
        root: File descriptor of the folder. Its owner closes it.
        top: Path of the folder when it was opened, for messages.
        parts: Names below the folder.
        guard: Called before each change. Raises if this process no longer owns the folder.
    """

    root: int
    top: Path
    parts: tuple[str, ...] = ()
    guard: Callable[[], None] = field(default=_allow, compare=False, repr=False)

    def __truediv__(self, name: str) -> "Place":
        return Place(self.root, self.top, (*self.parts, *Path(name).parts), self.guard)

    def with_name(self, name: str) -> "Place":
        return self.parent / name

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else self.top.name

    @property
    def parent(self) -> "Place":
        return Place(self.root, self.top, self.parts[:-1], self.guard)

    def __str__(self) -> str:
        return str(path_of(self))


# A path given by the user, whose folders may be links, or a path below an open folder.
Where = Path | Place


def path_of(where: Where) -> Path:
    """Returns the path of a file, for messages and for other libraries."""
    return where.top.joinpath(*where.parts) if isinstance(where, Place) else where


def open_folder(where: Where) -> int:
    """Returns a file descriptor of a folder. Raises OSError, also for a link below a Place."""
    if isinstance(where, Path):
        return os.open(where, _FOLDER)
    fd = os.open(".", _FOLDER, dir_fd=where.root)
    try:
        for name in where.parts:
            above, fd = fd, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def parent_of(where: Where) -> Iterator[tuple[int, str]]:
    """Yields (file descriptor of the parent folder, name of the file). Raises OSError."""
    fd = open_folder(where.parent)
    try:
        yield fd, where.name or "."
    finally:
        os.close(fd)


def allow_change(where: Where) -> None:
    """Calls the guard of a Place, which raises if this process no longer owns the folder."""
    if isinstance(where, Place):
        where.guard()


@contextlib.contextmanager
def changing(where: Where) -> Iterator[tuple[int, str]]:
    """Calls allow_change(), then yields what parent_of() yields."""
    allow_change(where)
    with parent_of(where) as found:
        yield found


def open_file(where: Where, flags: int, follow: bool = False) -> tuple[int, os.stat_result]:
    """Opens a regular file and returns (file descriptor, status).

    A pipe without a writer does not block.

    Args:
        where: File to open.
        flags: Flags of os.open().
        follow: Whether to follow a symbolic link.

    Raises:
        OSError: The file cannot be opened, or is not a regular file. strerror says why.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with parent_of(where) as (folder, name):
        try:
            fd = os.open(name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP and not follow:
                raise OSError(errno.ELOOP, "is a symbolic link", str(where)) from None
            if error.errno in (errno.EISDIR, errno.ENXIO):  # a folder, a pipe, a socket
                raise OSError(errno.EINVAL, "is not a regular file", str(where)) from None
            error.filename = str(where)
            raise
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", str(where))
    return fd, info


def lstat(where: Where) -> os.stat_result | None:
    """Returns the status of a file, of a link itself, or None if it is missing. Raises OSError."""
    try:
        with parent_of(where) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names_in(where: Where) -> list[str]:
    """Returns the sorted names in a folder. Raises OSError."""
    fd = open_folder(where)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)
