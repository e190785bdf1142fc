"""Import finder for modules in the working directory, limited to modules that the user names.

A run folder may come from a stranger. If the working directory were on the import path, a file such
as dill.py in it would be executed by any library with that optional import.
"""

import contextlib
import importlib.machinery
import multiprocessing
import os
import sys
from collections.abc import Iterator

# gymnasium.make() imports entry points by name, for the module that registered them.
_REGISTRATION = "gymnasium.envs.registration"
_SAFE_PATH = "PYTHONSAFEPATH"


class _Finder:
    """Searches one folder, after the import path, for a few importers only.

    Attributes:
        folder: The working directory.
        named: Top-level module that the user names, while it is imported.
        loaded: Top-level modules found here, which may import others from the folder.
        safe_path: The user's PYTHONSAFEPATH.
    """

    def __init__(self):
        self.folder, self.named = "", ""
        self.safe_path = os.environ.get(_SAFE_PATH)
        self.loaded: set[str] = set()

    def find_spec(self, name: str, path=None, target=None):
        """Called by the import system for a module that no other finder has found."""
        if path is not None or not self.folder or not (name == self.named or self._is_trusted()):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self.folder], target)
        if spec is not None:
            self.loaded.add(name)
        return spec

    def _is_trusted(self) -> bool:
        """Returns whether the importing module was found here."""
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
    """Enables the finder: named() then finds modules in the working directory."""
    with contextlib.suppress(OSError):  # it was deleted
        _finder.folder = os.getcwd()
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    # Numba reads .numba_config.yaml in the working directory, which may name a cache folder with
    # code of a stranger. The environment variable takes precedence. "" is the default folder.
    os.environ.setdefault("NUMBA_CACHE_DIR", "")


@contextlib.contextmanager
def named(module: str) -> Iterator[None]:
    """Within, this module may be imported from the working directory."""
    before, _finder.named = _finder.named, module.partition(".")[0]
    try:
        yield
    finally:
        _finder.named = before


class Inherited:
    """Installs the finder in a worker process when it is unpickled there.

    A process started by spawn or forkserver unpickles its target before its arguments, which may
    need a module of the folder. So this is an attribute of the target.
    """

    def __reduce__(self):
        return _inherit, (_finder.folder, _finder.loaded, _finder.safe_path)


def _inherit(folder: str, loaded: set[str], safe_path: str | None) -> Inherited:
    _finder.folder, _finder.loaded = folder, loaded
    if folder:  # programs that it starts get the user's own setting
        _restore(safe_path)
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    return Inherited()


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Within, started processes do not put the working directory on their import path.

    Processes of spawn and forkserver run `python -c`, which would. Does nothing unless allow() was
    called.
    """
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
    """Removes the working directory from the import path, where `python -m` puts it first.

    Args:
        package_home: Folder that fastdqn was imported from. It stays on the path, but last.
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
