"""Packages: environments that register themselves only when they are asked to."""

import importlib
import logging

import gymnasium

_MINATAR = "MinAtar/"


def register_for(env_id: str) -> None:
    """Register the package that an id names, once. Raises ValueError where it is not installed.

    MinAtar is GPL-3: nothing of it is imported before an id asks for it.
    """
    if not env_id.startswith(_MINATAR) or any(
        known.startswith(_MINATAR) for known in gymnasium.registry
    ):
        return
    quiet = logging.NullHandler()  # it warns through the root logger that it cannot draw
    logging.root.addHandler(quiet)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        importlib.import_module("minatar.gym").register_envs()
    except ImportError:
        raise ValueError(
            f"{env_id} needs a package that is missing: pip install 'fastdqn[minatar]'"
        ) from None
    finally:
        logging.disable(before)
        logging.root.removeHandler(quiet)
