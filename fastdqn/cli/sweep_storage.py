"""Storage of a sweep: a journal file that several processes may write, and that survives kills."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdqn.config.option import options_of
from fastdqn.config.schema import Config, ConfigError, current_names
from fastdqn.files.atomic_write import WriteError, refused
from fastdqn.files.output_files import new_folder

_STUDY = "sweep"


def open_trials(path: Path, identity: dict[str, Any], first: dict[str, Any]):
    """Opens or creates the Optuna study of a file.

    Args:
        path: The journal file.
        identity: What all trials of the file share, as read back from JSON.
        first: The first setting of a new study.

    Raises:
        ConfigError: Optuna is missing, or the file is not of this sweep or cannot be written.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(["a sweep needs Optuna: pip install 'fastdqn[sweep]'"]) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if os.path.lexists(path) and not os.path.isfile(
        path
    ):  # reading a device or a pipe might never end
        raise ConfigError([f"{path} is not a regular file: use another --out"])
    try:
        if not path.exists() or path.stat().st_size == 0:
            _begin(path, identity, first)
        study = optuna.load_study(study_name=_STUDY, storage=_storage(path))  # writes nothing
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    except Exception as error:  # Optuna raises anything on a foreign file
        raise ConfigError(
            [f"{path} is not the file of a sweep ({error}): use another --out"]
        ) from None
    theirs = study.user_attrs.get("fastdqn")
    if not isinstance(theirs, dict) or [each.name for each in study.directions] != ["MAXIMIZE"]:
        raise ConfigError([f"{path} is not a sweep of fastdqn: use another --out"])
    if isinstance(theirs.get("config"), dict):
        known = current_names(theirs["config"], warns=False)
        theirs = {**theirs, "config": _before(identity["config"]) | known}
    if theirs != identity:
        raise ConfigError([f"{path} is a sweep {_unlike(theirs, identity)}: use another --out"])
    return study


def begin_with(study, first: dict[str, Any], path: Path) -> None:
    """Asks for the first setting again if the trial that had it was interrupted.

    It is left alone while another process works on the file, which may be at it.
    """
    known = [trial for trial in study.trials if trial.state.name != "RUNNING"]
    asked = any(trial.system_attrs.get("fixed_params") == first for trial in known)
    if not (asked or _is_shared(path)):
        study.enqueue_trial(first)


def best_trial(study, path: Path) -> Any:
    """Returns the complete trial with the best value, or None without any.

    Raises:
        ConfigError: A value of the file is damaged.
    """
    # Pruned trials have a value too, of fewer seeds.
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    for trial in complete:
        values = trial.values
        if not values or not all(isinstance(v, float | int) and math.isfinite(v) for v in values):
            raise ConfigError(
                [f"{path}: trial {trial.number} has no finite value: use another --out"]
            )
    return max(complete, key=lambda trial: trial.value, default=None)


def is_filled(path: Path) -> bool:
    """Returns whether a path is a regular file with content."""
    return os.path.isfile(path) and os.path.getsize(path) > 0


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writes of trials: an OSError becomes a one-line WriteError."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise refused(Path(error.filename or path), error) from error


@contextlib.contextmanager
def temporary_runs_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder for runs, next to the file. Removes those of killed sweeps first.

    Raises:
        OSError: The folder cannot be made.
    """
    place, prefix = path.absolute().parent, f".{path.name}.runs."
    with _Lock(path):  # else another sweep might remove the folder before it is locked
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


def _is_shared(path: Path) -> bool:
    """Returns whether another process has a folder for runs of this file."""
    for each in path.absolute().parent.glob(f".{path.name}.runs.*"):
        if (left := _lock_folder(each)) is None:
            return True
        os.close(left)
    return False


def _lock_folder(folder: Path) -> int | None:
    """Locks a folder until the returned descriptor is closed or the process dies.

    Returns None if another process holds it or it cannot be opened.
    """
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
    """Creates the journal file atomically: no process sees an incomplete one."""
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
        if path.exists():  # an empty file, such as mktemp makes
            os.replace(new, path)
            return
        try:
            os.link(new, path)
        except FileExistsError:  # another process has created it
            pass
        except OSError:  # the file system has no hard links
            os.replace(new, path)


def _storage(path: Path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))  # pyright: ignore


class _Lock:
    """File lock on the journal itself, released by the system if the process dies.

    Optuna's own lock is a link next to the file, which a killed process leaves behind.
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
    """Removes an incomplete last line, left by a kill or a full disk. With another line after it
    the file could not be parsed."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)


def _before(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of options in a file that was written before they existed."""
    options = options_of(Config)
    before = {name: options[name].before for name in config if name in options}
    return json.loads(json.dumps(before, default=str))


def _unlike(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Describes how two sweeps differ."""
    if theirs.get("version") != ours["version"]:
        return f"of version {theirs.get('version')}, this is {ours['version']}"
    config = theirs.get("config")
    config = config if isinstance(config, dict) else {}
    names = [
        name for name in ("seeds", "searched", "objective") if theirs.get(name) != ours.get(name)
    ]
    names += [n for n in ours["config"] if n in config and config[n] != ours["config"][n]]
    if theirs.get("objective") != ours.get("objective"):
        names.remove("objective")
        values = [each.get("objective", "best") for each in (theirs, ours)]
        return f"of objective {values[0]}, this is {values[1]}"
    return f"of other {' and '.join(names or ['options'])}"
