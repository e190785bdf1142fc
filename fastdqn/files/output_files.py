"""Outputs: files that appear together, in a folder that stays only if they do."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fastdqn.files.atomic_write import WriteError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder, and those above it; where the block fails, what was made is taken away.

    Raises WriteError, one line, where it cannot be made.
    """
    path = path.absolute()
    made: list[Path] = []
    try:
        try:
            for folder in (*reversed(path.parents), path):
                if not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
        except OSError as error:
            raise WriteError(f"cannot make the folder {path}: {error.strerror}") from error
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # someone else put something there
                folder.rmdir()
        raise


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write every file in a place of its own; only when all are whole, put them into the folder.

    writers  by name of the file: writes it to the path that it is given
    Raises WriteError, one line, with the old files as they were.
    """
    at = folder
    try:
        # In the folder, so that a rename is enough; what a writer leaves beside its file goes too.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as place:
            for name, write in writers.items():
                at = folder / name
                if os.path.lexists(at) and (at.is_symlink() or not at.is_file()):
                    raise OSError(errno.EEXIST, "it is a link or a folder, not a file")
                write(Path(place, name))
                with open(Path(place, name), "rb") as file:
                    os.fsync(file.fileno())
            for name in writers:
                at = folder / name
                os.replace(Path(place, name), at)
    except OSError as error:
        room = ""
        with contextlib.suppress(OSError):
            room = f"; {shutil.disk_usage(folder).free:,} bytes free"
        raise WriteError(f"cannot write {at}: {error.strerror}{room}") from error


def out_problems(out: Path | None) -> list[str]:
    """A line where a file cannot be written, found before there is anything to write."""
    if out is None or may_write(out):
        return []
    return [f"out is {str(out)!r}: name a file, new or not, in a folder that exists"]


def may_write(path: Path) -> bool:
    """A rename must not turn a device or a link into a file."""
    try:
        usual = path.is_file() and not path.is_symlink()
        return usual or (not os.path.lexists(path) and path.absolute().parent.is_dir())
    except (OSError, ValueError):
        return False
