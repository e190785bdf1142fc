"""probe_env(): reads spaces, masks and time limit from one trial environment."""

import contextlib
import os
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.envs.action_masks import FROM_INFO
from fastdqn.envs.declared_stack import ask_worker
from fastdqn.envs.env_facts import EnvFacts
from fastdqn.envs.env_layers import sub_envs
from fastdqn.envs.env_stream import EnvStream
from fastdqn.envs.make import EnvRecipe
from fastdqn.envs.sub_env import UNLIMITED, SubEnv, close_quietly, time_limit_of
from fastdqn.envs.worker_process import WorkerTarget


def probe_env(recipe: EnvRecipe) -> EnvFacts:
    """Makes, resets and closes one sub-environment and returns its properties."""
    return probe_env_and_space(recipe)[0]


def probe_env_and_space(recipe: EnvRecipe) -> tuple[EnvFacts, Space]:
    """As probe_env(), but also returns the observation space.

    Raises:
        ValueError: The environment cannot be made, or its spaces are not supported.
        EnvError: Its reset fails.
    """
    in_process = recipe
    if recipe.vectorization in ("async", "workers"):
        in_process = replace(recipe, vectorization="sync")
    place = ""
    with contextlib.suppress(OSError):  # the directory was deleted
        place = os.getcwd()
    envs = in_process.make(1)
    try:
        stream = EnvStream(envs)
        stream.start(seed=0)
        facts = stream.facts._replace(
            has_masks=stream.mask is not None,
            mask_source=_mask_source(envs),
            max_episode_steps=limit_of(envs, in_process.max_episode_steps()),
        )
        return facts, envs.single_observation_space
    finally:
        close_quietly(envs)
        with contextlib.suppress(OSError):  # an environment may change and delete the directory
            os.chdir(place)


def _mask_source(envs: VectorEnv) -> str:
    lanes = [lane for lane in sub_envs(envs) if isinstance(lane, SubEnv)]
    return lanes[0].mask_source if lanes else FROM_INFO


def limit_of(envs: VectorEnv, registered: int | None = None) -> int | None:
    """Returns the number of steps after which the environments truncate an episode, if known.

    The environments that were made decide: the TimeLimit wrappers of a sub-environment, which user
    code may have changed, or the attribute of a vector class. registered is the limit of the id,
    used if nothing else is known.
    """
    inner: Any = envs.unwrapped
    if lanes := sub_envs(envs):
        limits = [time_limit_of(lane) for lane in lanes]
        return None if None in limits else max(filter(None, limits))
    if isinstance(inner, AsyncVectorEnv):
        limit = _of_process(inner)
    else:
        config = getattr(inner, "config", None)  # EnvPool's
        limit = config.get("max_episode_steps") if isinstance(config, dict) else None
        limit = limit or getattr(inner, "max_episode_steps", None)
    if isinstance(limit, int | np.integer) and not isinstance(limit, bool):
        return int(limit) if 0 < limit < UNLIMITED else None
    return registered or getattr(envs.spec, "max_episode_steps", None)


def _of_process(envs: AsyncVectorEnv) -> int | None:
    """Asks the first worker process; start() reports a dead one."""
    made_here = isinstance(envs.worker, WorkerTarget)
    name = "sub_env_time_limit" if made_here else "_max_episode_steps"
    with contextlib.suppress(EOFError, OSError):
        if ask_worker(envs, "has_wrapper_attr", name):
            return ask_worker(envs, "get_wrapper_attr", name) or UNLIMITED
    return None
