"""find_spec(), find_wrapper(): look up environments and wrappers by name."""

import difflib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from fastdqn.envs.errors import one_line
from fastdqn.envs.optional_packages import register_for
from fastdqn.system.cwd_imports import named

_MOST_LISTED = 20


class UnknownEnvError(ValueError):
    """No environment is registered under this id."""


def find_spec(env_id: str) -> EnvSpec:
    """Looks up an id, after importing its 'module:'; raises ValueError with similar names."""
    module, _, name = env_id.rpartition(":")
    if module:
        find_module(module, f"env_id {env_id!r}")
    register_for(name, env_id)
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        known = registered() if not module else registered_by(module)
        if near := _atari_of(name) or nearest(name, known):
            hint = f"did you mean {near}?"
        elif module:
            hint = f"{module} registers {_listed(known)}"
        else:
            hint = (
                f"{error} If another package registers it, name the module: "
                f"my_package:{name}. To list its ids: fastdqn envs my_package:"
            )
        hint = " ".join(hint.split())
        raise UnknownEnvError(f"no environment is registered as {env_id!r}: {hint}") from None


def _listed(ids: list[str]) -> str:
    """Joins the first ids in one line and counts the rest."""
    more = f" and {len(ids) - _MOST_LISTED} more" if len(ids) > _MOST_LISTED else ""
    return (", ".join(ids[:_MOST_LISTED]) or "none") + more


def _atari_of(name: str) -> str:
    """Returns the current id of one of Gym's old Atari ids, or ''."""
    old = re.fullmatch(r"(\w+?)(?:NoFrameskip|Deterministic)-v\d", name)
    return f"ALE/{old[1]}-v5, or without a protocol ale_py:{name}" if old else ""


def find_wrapper(name: str) -> Callable[[gymnasium.Env], gymnasium.Env]:
    """Returns the object that 'module:Name' names; a bare name is one of Gymnasium's wrappers.

    Raises:
        ValueError: There is none.
    """
    module, _, attribute = name.rpartition(":")
    named = f"{module or 'gymnasium.wrappers'}:{attribute}"
    return find_object(named, f"wrapper {name!r}", "my_package:MyWrapper")


def find_object(name: str, what: str, example: str = "my_module:MyPart") -> Any:
    """Returns the class or function that 'module:Name' names.

    Args:
        name: The module, and the attribute after a colon.
        what: Begins the error message.
        example: A name of the right form, for the error message.

    Raises:
        ValueError: There is none.
    """
    module, _, attribute = name.rpartition(":")
    home: Any = find_module(module, what)
    for part in attribute.split("."):
        try:
            inner = getattr(home, part) if part else None
        except AttributeError:
            inner = None
        except Exception as error:  # a lazy import of the module failed
            raise ValueError(f"{what}: {one_line(error)}") from None
        if inner is None:
            near = nearest(attribute, [known for known in dir(home) if known[:1] != "_"])
            hint = f": did you mean {near}?" if near else f": name it as {example}"
            raise ValueError(f"{what}: {module} has no {attribute!r}{hint}")
        home = inner
    if not callable(home):
        raise ValueError(f"{what} is a {type(home).__name__}, not a class or function")
    return home


def registered() -> list[str]:
    """Returns every id in Gymnasium's registry."""
    return list(gymnasium.registry)


def registered_by(module: str) -> list[str]:
    """Returns the ids whose environments are defined in a module or package."""
    homes = {
        env_id: spec.entry_point
        if isinstance(spec.entry_point, str)
        else getattr(spec.entry_point, "__module__", "")
        for env_id, spec in gymnasium.registry.items()
    }
    return [id_ for id_, home in homes.items() if re.match(rf"{re.escape(module)}\b", str(home))]


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known names most similar to an unknown one, as 'a or b', or ''."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    return " or ".join(by_lower[k] for k in close)


def lies_inside(module: str, folder: str) -> bool:
    """Whether importing a module would run a file inside folder; does not import it."""
    home = os.path.realpath(folder)
    parts = module.split(".")
    for i in range(len(parts)):  # find_spec("a.b") imports a, which was checked before
        try:
            with named(module):
                spec = importlib.util.find_spec(".".join(parts[: i + 1]))
        except (ImportError, ValueError, AttributeError):
            return False
        if spec is None:
            return False
        for place in (spec.origin, *(spec.submodule_search_locations or ())):
            if place and f"{os.path.realpath(place)}{os.sep}".startswith(home + os.sep):
                return True
    return False


def find_module(module: str, what: str) -> Any:
    """Imports a module; raises ValueError, in a line that begins with what."""
    try:
        with named(module):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Names on PyPI may contain characters that module names cannot, as in highway-env.
        other = module.replace("-", "_")
        hint = f"The module may be named {other}. " if other != module else ""
        raise ValueError(
            f"{what}: cannot import {module!r} ({error}). {hint}Check that it is installed, or in "
            "the current directory"
        ) from None
    except (Exception, SystemExit) as error:  # user code
        raise ValueError(f"{what}: importing {module!r} failed: {one_line(error)}") from None
