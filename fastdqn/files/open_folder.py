"""Place: a path below a folder that is held open, and the one way in which files are opened.

Names are resolved from descriptors, folder by folder, and links are not followed. A folder that is
moved keeps its files, and nothing is written to what has taken its path.
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
    """The guard of a folder that nobody else can take."""


@dataclass(frozen=True)
class Place:
    """A path below an open folder.

    root   descriptor of the folder, which its owner closes
    top    path of the folder when it was opened, for messages
    parts  names below it
    guard  called before each change; raises where the folder is no longer the owner's
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


# A path of the user's, whose folders may be links, or one below a folder that is held open.
Where = Path | Place


def path_of(where: Where) -> Path:
    """The path by which others know a file."""
    return where.top.joinpath(*where.parts) if isinstance(where, Place) else where


def open_folder(where: Where) -> int:
    """Descriptor of a folder. Raises OSError, also for a link below a folder that is held."""
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
    """(descriptor of the folder that a file is in, the file's name). Raises OSError."""
    fd = open_folder(where.parent)
    try:
        yield fd, where.name or "."
    finally:
        os.close(fd)


def allow_change(where: Where) -> None:
    """Raises what the guard of a place raises where the folder is no longer its owner's."""
    if isinstance(where, Place):
        where.guard()


@contextlib.contextmanager
def changing(where: Where) -> Iterator[tuple[int, str]]:
    """As parent_of(), for a change of the file, which the guard of the place must allow."""
    allow_change(where)
    with parent_of(where) as found:
        yield found


def open_file(where: Where, flags: int, follow: bool = False) -> tuple[int, os.stat_result]:
    """(descriptor, status) of a regular file; links are followed where that is asked for.

    A pipe that nobody writes to does not block. Raises OSError whose reason is a phrase.
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
    """Status of what has a name, a link's own; None where nothing has it. Raises OSError."""
    try:
        with parent_of(where) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names_in(where: Where) -> list[str]:
    """Sorted names in a folder. Raises OSError."""
    fd = open_folder(where)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)
