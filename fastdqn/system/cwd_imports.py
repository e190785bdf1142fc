"""Finder of modules in the working directory: those that the user names, and no others.

A run folder may come from anybody. If the working directory were on the import path, a file such as
dill.py in it would run as soon as a library tries that optional import.
"""

import contextlib
import importlib.machinery
import multiprocessing
import os
import sys
from collections.abc import Iterator

# gymnasium.make() imports an entry point by name, on behalf of the module that registered it.
_REGISTRATION = "gymnasium.envs.registration"
_SAFE_PATH = "PYTHONSAFEPATH"


class _Finder:
    """Searches one folder, after everything on the import path, on behalf of few importers.

    named   top-level module that the user names, while it is imported
    loaded  top-level modules that were found here: these may import others from the folder, at
            any time
    safe_path  the user's own PYTHONSAFEPATH
    """

    def __init__(self):
        self.folder, self.named = "", ""
        self.safe_path = os.environ.get(_SAFE_PATH)
        self.loaded: set[str] = set()

    def find_spec(self, name: str, path=None, target=None):
        """Called by the import system for a module that is found nowhere else."""
        if path is not None or not self.folder or not (name == self.named or self._is_trusted()):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self.folder], target)
        if spec is not None:
            self.loaded.add(name)
        return spec

    def _is_trusted(self) -> bool:
        """Whether the module whose code imports was found here."""
        if not self.loaded:
            return False
        frame = sys._getframe(2)
        name = str(frame.f_globals.get("__name__", ""))
        while frame.f_back is not None and name.lstrip("_").startswith(("importlib", "frozen_imp")):
            frame = frame.f_back
            name = str(frame.f_globals.get("__name__", ""))
        return name == _REGISTRATION or name.partition(".")[0] in self.loaded


_finder = _Finder()


def allow() -> None:
    """From now on named() finds modules in the working directory, as the command line promises."""
    with contextlib.suppress(OSError):  # it was deleted
        _finder.folder = os.getcwd()
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    # Numba reads .numba_config.yaml in the working directory, and runs what it finds in the cache
    # folder named there. The environment wins; "" means the default folder.
    os.environ.setdefault("NUMBA_CACHE_DIR", "")


@contextlib.contextmanager
def named(module: str) -> Iterator[None]:
    """Within, the module that the user names may come from the working directory."""
    before, _finder.named = _finder.named, module.partition(".")[0]
    try:
        yield
    finally:
        _finder.named = before


class Inherited:
    """An attribute of what is called in another process, which then searches the folder for as much
    as this one does.

    A process that is started by spawn or forkserver unpickles what it calls first, its arguments
    (which may need a module of the folder) afterwards.
    """

    def __reduce__(self):
        return _inherit, (_finder.folder, _finder.loaded, _finder.safe_path)


def _inherit(folder: str, loaded: set[str], safe_path: str | None) -> Inherited:
    _finder.folder, _finder.loaded = folder, loaded
    if folder:  # the variable is for this process: programs that it starts have the user's
        _restore(safe_path)
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    return Inherited()


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Within, processes started by spawn or forkserver do not put the working directory on their
    import path, which `python -c` does. Without the command line nothing is changed."""
    if not _finder.folder or multiprocessing.get_start_method() == "fork":
        yield
        return
    _finder.safe_path = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        _restore(_finder.safe_path)


def _restore(safe_path: str | None) -> None:
    os.environ.pop(_SAFE_PATH, None)
    if safe_path is not None:
        os.environ[_SAFE_PATH] = safe_path


def take_off_path(package_home: str) -> None:
    """Undo `python -m`, which puts the working directory first on the import path.

    package_home  folder that fastdqn was imported from: it stays on the path, but last
    """
    try:
        folder = os.getcwd()
    except OSError:
        return
    if sys.flags.safe_path or sys.path[:1] != [folder]:
        return
    del sys.path[0]
    if os.path.realpath(package_home) == os.path.realpath(folder):
        sys.path.append(folder)
