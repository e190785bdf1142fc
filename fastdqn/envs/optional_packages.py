"""Optional packages, imported only if an environment id needs them."""

import importlib
import logging
from collections.abc import Callable
from typing import Any

import gymnasium


def register_for(name: str, what: str) -> None:
    """Registers the package that an id, or a pattern of ids, begins with.

    Both packages are GPL, so they are not imported unless they are used.

    Args:
        name: The id or pattern.
        what: What needs the package; the error message begins with it.

    Raises:
        ValueError: The package is not installed.
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
    """Whether envs are of a package's class with that name, without importing the package."""
    bases = type(envs).__mro__
    return any((b.__module__.partition(".")[0], b.__name__) == (package, name) for b in bases)


def _register_ale() -> None:
    gymnasium.register_envs(importlib.import_module("ale_py"))  # the import registers


def _register_minatar() -> None:
    quiet = logging.NullHandler()  # silences its root-logger warning about missing drawing
    logging.root.addHandler(quiet)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        importlib.import_module("minatar.gym").register_envs()
    finally:
        logging.disable(before)
        logging.root.removeHandler(quiet)


# Prefix of the ids: the extra that installs the package, and the function that registers it.
_PACKAGES: dict[str, tuple[str, Callable[[], None]]] = {
    "ALE/": ("atari", _register_ale),
    "MinAtar/": ("minatar", _register_minatar),
}
