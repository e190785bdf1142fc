"""find_supported_envs(): which registered environments can be trained, and why others cannot."""

import contextlib
import fnmatch
import functools
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import gymnasium
from gymnasium.vector import VectorEnv

from fastdqn.envs.env_facts import read_spaces
from fastdqn.envs.make import EnvRecipe
from fastdqn.envs.observations import short
from fastdqn.envs.optional_packages import register_for
from fastdqn.envs.registry import find_module, registered, registered_by
from fastdqn.envs.sub_env import close_quietly


class Entry(NamedTuple):
    """One id.

    Attributes:
        env_id: The id.
        observations: Its observation space.
        actions: Its action space.
        vectorization: What auto selects, or '' if it cannot be trained.
        faster: Vectorizations that are faster with many environments and cores, or the id of a
            compiled form, or ''.
        problem: Why it cannot be trained, or ''.
    """

    env_id: str
    observations: str
    actions: str
    vectorization: str
    faster: str
    problem: str


def find_supported_envs(pattern: str = "") -> Iterator[Entry]:
    """Makes one environment of every matching id and yields its properties.

    Args:
        pattern: Part of an id or a glob such as 'Cart*', in any case, optionally with 'module:' in
            front.

    Raises:
        ValueError: The module cannot be imported.
    """
    module, _, wanted = pattern.rpartition(":")
    if module:
        find_module(module, f"pattern {pattern!r}")
    register_for(wanted, f"pattern {pattern!r}")
    wanted = wanted.lower()
    glob = wanted if any(c in wanted for c in "*?[") else f"*{wanted}*"
    for env_id in sorted(registered_by(module) if module else registered()):
        if fnmatch.fnmatchcase(env_id.lower(), glob):
            yield _entry(env_id)


def _entry(env_id: str) -> Entry:
    recipe = EnvRecipe(env_id)
    quiet = contextlib.redirect_stdout(io.StringIO())  # packages may print a greeting
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        try:
            settings = recipe.atari_settings()
            env = recipe.make_one() if settings is None else recipe.make(1)
        except ValueError as error:
            return Entry(env_id, "", "", "", "", str(error))
        spaces = _spaces_of_a_lane(env)
        problem = ""
        try:
            read_spaces(*spaces)
        except ValueError as error:
            problem = str(error)
        close_quietly(env)
    observations, actions = short(spaces[0]), short(spaces[1])
    if problem:
        return Entry(env_id, observations, actions, "", "", problem)
    selected = recipe.resolve()
    return Entry(env_id, observations, actions, selected, _faster(env_id, selected), "")


def _faster(env_id: str, selected: str) -> str:
    if selected != "sync":
        return ""
    if f"fastdqn/{env_id}" in gymnasium.registry:
        return f"fastdqn/{env_id}"
    return "workers, envpool" if env_id in _ids_of_envpool() else "workers"


@functools.cache
def _ids_of_envpool() -> frozenset[str]:
    if importlib.util.find_spec("envpool") is None:
        return frozenset()
    return frozenset(importlib.import_module("envpool").list_all_envs())


def _spaces_of_a_lane(env: gymnasium.Env | VectorEnv) -> tuple[gymnasium.Space, gymnasium.Space]:
    if isinstance(env, VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space
