"""Packages: optional ones, imported only where an id asks for them."""

import importlib
import logging
from collections.abc import Callable
from typing import Any

import gymnasium


def register_for(name: str, what: str) -> None:
    """Register the package that an id, or a pattern of ids, begins with, once.

    what  needs it: the beginning of the error's line
    Raises ValueError where it is not installed. Both are GPL: nothing of them is imported before.
    """
    for prefix, (extra, register) in _PACKAGES.items():
        is_known = any(known.startswith(prefix) for known in gymnasium.registry)
        if is_known or not name.lower().startswith(prefix.lower()):
            continue
        try:
            register()
        except ImportError:
            raise ValueError(
                f"{what} needs a package that is missing: pip install 'fastdqn[{extra}]'"
            ) from None


def is_from(envs: Any, package: str, name: str) -> bool:
    """Whether envs are of a package's class of that name, which is not imported to find out."""
    bases = type(envs).__mro__
    return any((b.__module__.partition(".")[0], b.__name__) == (package, name) for b in bases)


def _register_ale() -> None:
    gymnasium.register_envs(importlib.import_module("ale_py"))  # its import does it


def _register_minatar() -> None:
    quiet = logging.NullHandler()  # it warns through the root logger that it cannot draw
    logging.root.addHandler(quiet)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        importlib.import_module("minatar.gym").register_envs()
    finally:
        logging.disable(before)
        logging.root.removeHandler(quiet)


# By the beginning of their ids: the extra that installs them, and how they are registered.
_PACKAGES: dict[str, tuple[str, Callable[[], None]]] = {
    "ALE/": ("atari", _register_ale),
    "MinAtar/": ("minatar", _register_minatar),
}
