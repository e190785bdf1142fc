"""FolderCopy: a run folder that arrives from another machine in blocks, put in place as a whole."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastdqn.files.durable_write import (
    TEMPORARY,
    exists,
    fresh_folder,
    publish,
    remove,
    sync_file,
    sync_folder,
)
from fastdqn.files.open_folder import open_file

# Bytes of a file that are in memory at a time.
BLOCK = 16 << 20
_INCOMPLETE, _COMPLETE = f"{TEMPORARY}copy-", f"{TEMPORARY}new-"
_REMOVED = f"{TEMPORARY}old-"  # of durable_write.remove()
# The lock of a process is no part of its run.
_LOCK = "lock"


class FileSize(NamedTuple):
    """Path of a file relative to its run folder, with slashes, and its size in bytes."""

    name: str
    bytes: int


def files_of(folder: Path) -> list[FileSize]:
    """Returns the regular files of a run folder, sorted, without links and unfinished files."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith(TEMPORARY))
        for path in (Path(place, name) for name in sorted(names)):
            name = path.relative_to(folder).as_posix()
            if name == _LOCK or path.name.startswith(TEMPORARY) or path.is_symlink():
                continue
            if path.is_file():
                found.append(FileSize(name, path.stat().st_size))
    return sorted(found)


def read_block(folder: Path, name: str, start: int) -> bytes:
    """Returns the block of a file that begins at a byte. Raises OSError."""
    fd, _ = open_file(folder / name, os.O_RDONLY)
    with open(fd, "rb") as file:
        file.seek(start)
        return file.read(BLOCK)


def send_files(
    files: Sequence[FileSize],
    read: Callable[[str, int], bytes],
    add: Callable[[str, bytes], object],
) -> None:
    """Passes all blocks of all files, in order.

    Args:
        files: The files.
        read: Returns the block of a file that begins at a byte.
        add: Takes the next block of a file.
    """
    for file in files:
        for start in range(0, max(1, file.bytes), BLOCK):  # an empty file has an empty block
            add(file.name, read(file.name, start))


class FolderCopy:
    """Replaces a run folder by a copy of another. A crash leaves the old folder or the new one.

    All methods raise OSError. The folder is unchanged until end() returns.

    Args:
        folder: The run folder, which may be missing. Its parent exists.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._incomplete = folder.with_name(_INCOMPLETE + folder.name)

    def begin(self) -> None:
        """Starts a copy. An unfinished one is removed."""
        fresh_folder(self._incomplete)

    def add(self, name: str, block: bytes) -> None:
        """Appends a block to a file. Raises ValueError if its name leads out of the folder."""
        path = self._incomplete / _inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(block)

    def end(self, files: Sequence[FileSize]) -> None:
        """Syncs the copy and puts it in place. Raises OSError if it is not complete."""
        if files_of(self._incomplete) != sorted(files):
            raise OSError(f"the copy of {self._folder} is incomplete: its files changed")
        for name, _ in files:
            sync_file(self._incomplete / name)
        for place, _, _ in os.walk(self._incomplete, topdown=False):
            sync_folder(Path(place))
        complete = self._folder.with_name(_COMPLETE + self._folder.name)
        if exists(complete):
            remove(complete)
        publish(self._incomplete, complete)
        _put_in_place(complete, self._folder)


def finish_copies(parent: Path) -> None:
    """Puts complete copies that a crash left in place, and removes incomplete ones."""
    for each in list(parent.iterdir()):
        if each.name.startswith(_COMPLETE):
            _put_in_place(each, parent / each.name.removeprefix(_COMPLETE))
        elif each.name.startswith((_INCOMPLETE, _REMOVED)):
            with contextlib.suppress(FileNotFoundError):  # removed by _put_in_place()
                remove(each)


def _put_in_place(complete: Path, folder: Path) -> None:
    left = folder.with_name(_REMOVED + folder.name)
    if exists(left):
        remove(left)
    if exists(folder):
        remove(folder)
    publish(complete, folder)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r:.80} is not a file of a run folder")
    return path
