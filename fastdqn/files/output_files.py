"""Output files of a command: written together, or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import WriteError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Creates a folder and its parents. If the block raises, the new folders are removed.

    Raises:
        WriteError: The folder cannot be created.
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
            raise WriteError(f"cannot create the folder {path}: {error.strerror}") from error
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: another process uses it
                folder.rmdir()
        raise


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Writes files to a temporary folder, and moves them to folder once all are complete.

    Args:
        folder: Existing folder.
        writers: Maps the name of each file to a function that writes it to a given path.

    Raises:
        WriteError: A file cannot be written. Existing files are unchanged.
    """
    at = folder
    try:
        # Inside folder, so that os.replace() works. Extra files of a writer are deleted with it.
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
    """Returns the errors of --out, a file that is replaced, before there is anything to write."""
    if out is None:
        return []
    if not may_write(out):
        return [_no_place(out)]
    folder = out.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [f"out is {str(out)!r}: no file can be created in {folder}: {error.strerror}"]


def append_problems(out: Path | None) -> list[str]:
    """As out_problems(), for a file to which results are appended."""
    if out is None:
        return []
    if not may_write(out):
        return [_no_place(out)]
    is_new = not out.exists()
    try:
        AppendFile(out).close()
        if is_new:
            out.unlink(missing_ok=True)
    except OSError as error:
        return [f"out: {error}. Give another file"]
    return []


def _no_place(out: Path) -> str:
    return f"out is {str(out)!r}: give a file, new or existing, in an existing folder"


def may_write(path: Path) -> bool:
    """Returns whether path is a regular file or missing: a device or a link is not replaced."""
    try:
        usual = path.is_file() and not path.is_symlink()
        return usual or (not os.path.lexists(path) and path.absolute().parent.is_dir())
    except (OSError, ValueError):
        return False
