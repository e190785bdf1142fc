"""Outputs: files that appear together, in a folder that stays only if they do."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fastdqn.record.files import WriteError


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


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write every file beside its place; only when all are whole, put them there.

    writers  by name of the file: writes it to the path that it is given
    Raises WriteError, one line, with the old files as they were.
    """
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in writers}
    at = folder
    try:
        for name, write in writers.items():
            at = folder / name
            if os.path.lexists(at) and (at.is_symlink() or not at.is_file()):
                raise OSError(errno.EEXIST, "it is a link or a folder, not a file")
            write(temporary[name])
            with open(temporary[name], "rb") as file:
                os.fsync(file.fileno())
        for name, path in temporary.items():
            at = folder / name
            os.replace(path, at)
    except OSError as error:
        room = ""
        with contextlib.suppress(OSError):
            room = f"; {shutil.disk_usage(folder).free:,} bytes free"
        raise WriteError(f"cannot write {at}: {error.strerror}{room}") from error
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
