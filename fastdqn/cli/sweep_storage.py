"""Trials: the file of a sweep, which any number of processes write and any of them may die of."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import WriteError, refused
from fastdqn.files.output_files import new_folder

_STUDY = "sweep"


def open_trials(path: Path, identity: dict[str, Any], first: dict[str, Any]):
    """The study of a file, new or gone on with.

    identity  what all trials of a file have in common, as JSON gives it back
    first     the setting that a new file's search begins with
    Raises ConfigError where there is no Optuna, or the file is another's or cannot be one.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(["a sweep needs Optuna: pip install 'fastdqn[sweep]'"]) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if os.path.lexists(path) and not os.path.isfile(path):  # a device or a pipe might never end
        raise ConfigError([f"{path} is no regular file: name another --out"])
    try:
        if not path.exists() or path.stat().st_size == 0:
            _begin(path, identity, first)
        study = optuna.load_study(study_name=_STUDY, storage=_storage(path))  # writes nothing
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    except Exception as error:  # whatever Optuna makes of a file of anyone's
        raise ConfigError([f"{path} is not a sweep's file ({error}): name another --out"]) from None
    theirs = study.user_attrs.get("fastdqn")
    if not isinstance(theirs, dict):
        raise ConfigError([f"{path} is not a sweep of fastdqn's: name another --out"])
    if theirs != identity:
        raise ConfigError([f"{path} is a sweep {_unlike(theirs, identity)}: name another --out"])
    return study


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes trials: a refused write becomes a WriteError, one line."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise refused(Path(error.filename or path), error) from error


@contextlib.contextmanager
def passing_folder(path: Path) -> Iterator[Path]:
    """A folder beside the file for runs that leave nothing; those that killed sweeps left go first.

    Raises OSError where it cannot be made.
    """
    place, prefix = path.absolute().parent, f".{path.name}.runs."
    with _Lock(path):  # or another might take away what is made here, before it is locked
        for each in place.iterdir():
            if each.name.startswith(prefix) and (left := _lock_folder(each)) is not None:
                shutil.rmtree(each, ignore_errors=True)
                os.close(left)
        folder = tempfile.mkdtemp(dir=place, prefix=prefix)
        held = _lock_folder(Path(folder))
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _lock_folder(folder: Path) -> int | None:
    """Hold a folder, until what is returned is closed or the process dies; None: it is held, or
    cannot be opened, as one that its owner takes away just now."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd
    return None


def _begin(path: Path, identity: dict[str, Any], first: dict[str, Any]) -> None:
    """Make a file that is a sweep's from its first moment: nobody sees half of its beginning."""
    import optuna

    with (
        new_folder(path.parent),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".new.") as place,
    ):
        new = Path(place, "journal")
        new.touch()
        study = optuna.create_study(study_name=_STUDY, storage=_storage(new), direction="maximize")
        study.set_user_attr("fastdqn", identity)
        study.enqueue_trial(first)
        if path.exists():  # an empty one, as a name for a new file is often got
            os.replace(new, path)
            return
        try:
            os.link(new, path)
        except FileExistsError:  # another process has begun it
            pass
        except OSError:  # a file system without links
            os.replace(new, path)


def _storage(path: Path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))  # pyright: ignore


class _Lock:
    """A lock of the system's on the file itself, which a process that dies lets go of.

    Optuna's own is a link beside the file, which stays where its process was killed; if the path
    is relative, the next one waits for it for ever.
    """

    def __init__(self, path: Path):
        self._path, self._fd = path, -1

    def acquire(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _cut(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception) -> None:
        self.release()


def _cut(fd: int) -> None:
    """Take away a last line without an end: the disk was full, or its writer was killed. With
    another line behind it the file could not be read any more."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)


def _unlike(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In which words two sweeps differ."""
    if theirs.get("version") != ours["version"]:
        return f"of version {theirs.get('version')}, this is {ours['version']}"
    config = theirs.get("config")
    config = config if isinstance(config, dict) else {}
    names = [name for name in ("seeds", "searched") if theirs.get(name) != ours[name]]
    names += [n for n in ours["config"] if n in config and config[n] != ours["config"][n]]
    return f"of other {' and '.join(names or ['options'])}"
