"""Run folder: created once for each run, with the options, command line and system."""

import contextlib
import functools
import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import WriteError, read_text, to_json, write_whole
from fastdqn.files.durable_write import TEMPORARY, remove
from fastdqn.files.open_folder import Place, Where, names_in

Options = TypeVar("Options")
# Other ranks hold the locks of their own folders in `ranks`.
_KEPT_NAMES = {"lock", "ranks", "wandb", "wandb.json"}
_OUR_NAMES = _KEPT_NAMES | {
    "config.json", "requested.json", "command.txt", "system.json", "wandb.json",
    "summary.json", "changes.jsonl", "snapshots", "traceback.txt",
    "metrics.jsonl", "eval.jsonl", "episodes.csv",
    "policy.safetensors", "best.safetensors", "checkpoints",
}  # fmt: skip


class HandedIn(NamedTuple):
    """Names 'module:name' of the objects passed from Python. None: created from the options.

    parts: names of other parts by option, such as value.
    """

    envs: str | None = None
    torso: str | None = None
    parts: Mapping[str, str] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        """Returns the names as JSON has them."""
        return {"envs": self.envs, "torso": self.torso, "parts": dict(self.parts)}


def default_run_dir(config: Config) -> str:
    """Returns runs/ENV__PRESET__SEED__TIME, with the time in UTC in microseconds."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return str(Path("runs", f"{name_in_files(config)}__{config.seed}__{time}"))


def name_in_files(config: Config) -> str:
    """Returns ENV__PRESET, without characters that a file name cannot have."""
    names = (config.env_id, config.preset)
    return "__".join(re.sub(r"[^A-Za-z0-9._-]+", "-", name) for name in names)


def folder_problem(run_dir: str) -> str | None:
    """Returns why a run cannot use this folder, or None."""
    path = Path(run_dir)
    if not run_dir:
        return "run_dir is empty: name a new folder, or leave it out"
    if "\0" in run_dir:
        return f"run_dir {run_dir!r} contains a null byte, which is not allowed in a path"
    try:
        if not path.exists():
            parent = next(p for p in path.absolute().parents if p.exists())
            if not parent.is_dir():
                return f"run_dir {run_dir}: {parent} is a file, not a folder"
            return _unwritable(run_dir, parent)
        if not path.is_dir():
            return f"run_dir {run_dir} is a file: give a new or empty folder"
        if any(path.iterdir()):
            return f"run_dir {run_dir} is not empty: give a new or empty folder"
    except (OSError, ValueError) as error:
        return f"run_dir {run_dir}: {error}"
    return _unwritable(run_dir, path)


def _unwritable(run_dir: str, folder: Path) -> str | None:
    writable = os.access(folder, os.W_OK | os.X_OK)
    return None if writable else f"run_dir {run_dir}: {folder} is not writable"


def working_folder() -> Path:
    """Returns the working directory, before an environment changes it. Raises ConfigError."""
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError([f"the working directory does not exist: {error.strerror}"]) from None


def create_folder(
    config: Config,
    device_name: str,
    unbegun: ExitStack,
    options: str | None = None,
    requested: str | None = None,
    handed_in: HandedIn = HandedIn(),  # noqa: B008
) -> Path:
    """Creates the run folder and writes its first files: see write_known().

    Args:
        config: Options of the run. run_dir must be set.
        device_name: Name of the device, for system.json.
        unbegun: Receives a callback that empties or removes the folder if the run does not start.
        options: Content of config.json. None: config.
        requested: Content of requested.json. None: no such file.
        handed_in: Names of the objects passed from Python.

    Raises:
        ConfigError: The folder cannot be created, or is in use.
    """
    assert config.run_dir is not None
    if problem := folder_problem(config.run_dir):
        raise ConfigError([problem])
    folder = working_folder() / config.run_dir
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Creating this file claims the folder, also against a run that starts at the same time.
        os.close(os.open(folder / "config.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise ConfigError(
            [f"run_dir {config.run_dir} is in use by another run that has just started"]
        ) from None
    except OSError as error:
        _remove_empty(new)
        raise ConfigError([f"run_dir {config.run_dir}: {error.strerror}"]) from None
    unbegun.callback(_empty, folder, new)
    write_known(folder, options or config.to_json(), device_name, requested, handed_in)
    return folder


def write_known(
    folder: Where,
    options: str,
    device_name: str,
    requested: str | None = None,
    handed_in: HandedIn = HandedIn(),  # noqa: B008
) -> None:
    """Writes the options, the command line and a description of the system.

    Args:
        folder: Run folder.
        options: Content of config.json.
        device_name: Name of the device, for system.json.
        requested: Options before None and auto were resolved, which --resume auto compares.
        handed_in: Names of the objects passed from Python.

    Raises:
        ConfigError: A file cannot be written.
    """
    try:
        if requested is not None:
            write_whole(folder / "requested.json", requested)
        write_whole(folder / "command.txt", shlex.join(sys.argv) + "\n")
        system = {**_system(device_name), "handed_in": handed_in.to_dict()}
        write_whole(folder / "system.json", to_json(system, indent=2) + "\n")
        write_whole(folder / "config.json", options)
    except WriteError as error:
        raise ConfigError([str(error)]) from None


def clear(folder: Place) -> None:
    """Removes the files of a run that restarts in its folder. Other files stay.

    Raises:
        ConfigError: A file cannot be removed.
    """
    try:
        for name in names_in(folder):
            if _is_ours(name) and name not in _KEPT_NAMES:
                remove(folder / name)
    except OSError as error:
        raise ConfigError([f"cannot remove {error.filename}: {error.strerror}"]) from None


def foreign_names(folder: Place) -> list[str]:
    """Returns the names in a folder that are not files of a run."""
    return [name for name in names_in(folder) if not _is_ours(name)]


def _is_ours(name: str) -> bool:
    return name in _OUR_NAMES or name.startswith((TEMPORARY, "events.out.tfevents."))


def _empty(folder: Path, new: list[Path]) -> None:
    """Removes the content of a folder, and the folders that are new."""
    with contextlib.suppress(OSError):  # the error that stopped the run is reported
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    _remove_empty(new)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it does not exist, or another process uses it
            folder.rmdir()


def read_config(folder: Where, name: str = "config.json") -> Config:
    """Returns the options of a run.

    Args:
        folder: Run folder.
        name: config.json, or requested.json for the options before None and auto were resolved.

    Raises:
        ConfigError: The file cannot be read, or an option is invalid. Its lines name the file.
    """
    return read_options(folder, Config.from_json, name)


def read_options(
    folder: Where, parse: Callable[[str], Options], name: str = "config.json"
) -> Options:
    """As read_config(), with parse() to convert the text of the file."""
    path = folder / name
    try:
        return parse(read_text(path))
    except ConfigError as error:
        lines = [f"{path}: {line.removeprefix('config.json ')}" for line in error.lines]
        raise ConfigError(lines) from None
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def name_of(given: Any) -> str:
    """Returns 'module:name' of a function or class, or of the class of another object."""
    if isinstance(given, functools.partial):
        return name_of(given.func)
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{getattr(named, '__module__', None) or 'builtins'}:{named.__qualname__}"


def read_handed_in(folder: Path) -> HandedIn | None:
    """Returns the names of objects passed from Python. None: not recorded, as in older runs.

    Raises:
        ConfigError: system.json cannot be read. The line names the file.
    """
    path = folder / "system.json"
    if not path.exists():
        return None
    try:
        system = json.loads(read_text(path))
        found = system.get("handed_in") if isinstance(system, dict) else system
        if found is None:
            return None
        read = HandedIn(**found)
        if not isinstance(read.parts, Mapping):
            raise TypeError
        if not all(name is None or isinstance(name, str) for name in (read.envs, read.torso)):
            raise TypeError
        if not all(isinstance(name, str) for name in dict(read.parts).values()):
            raise TypeError
    except (TypeError, RecursionError):
        raise ConfigError(
            [f"{path}: handed_in must be an object with the names of envs and torso"]
        ) from None
    except ValueError as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}"]) from None
    return read


def _system(device_name: str) -> dict:
    packages = ("fastdqn", "torch", "gymnasium", "numpy", "numba", "safetensors")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device_name,
        "packages": {name: _version(name) for name in packages},
        "fastdqn_source": _source(),
    }


@functools.cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source() -> str | None:
    """Returns the folder or URL that fastdqn was installed from, or None for a package index."""
    package = Path(__file__).parents[1]
    try:
        installed = metadata.distribution("fastdqn")
        # Only an installation from elsewhere than an index has this file (PEP 610).
        url = json.loads(installed.read_text("direct_url.json") or "{}").get("url")
        here = Path(str(installed.locate_file("fastdqn"))) == package
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return str(package.parent)
    return url if here else str(package.parent)


def processor() -> str:
    """Returns the model name of the processor."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()
