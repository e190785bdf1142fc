"""MaskSource: an action mask that a sub-environment keeps outside of its info."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.envs.declared_stack import ask_worker
from fastdqn.envs.env_layers import layers, sub_envs

FROM_OBS = "observation['action_mask']"
FROM_METHOD = "action_masks()"


class MaskSource(NamedTuple):
    """Where a sub-environment keeps its mask.

    Attributes:
        name: FROM_OBS or FROM_METHOD.
        read: Returns the mask that belongs to an observation.
    """

    name: str
    read: Callable[[Any], Any]


def find_mask_source(env: gymnasium.Env) -> MaskSource | None:
    """Returns the source of masks besides info["action_mask"], or None.

    A key "action_mask" of the observation is the convention of RLlib and PettingZoo. A method
    action_masks() is that of sb3-contrib.
    """
    if _is_mask(env.observation_space, env.action_space):
        return MaskSource(FROM_OBS, lambda obs: obs["action_mask"])
    for layer in layers(env):
        if callable(method := getattr(layer, "action_masks", None)):
            return MaskSource(FROM_METHOD, lambda obs: method())
    return None


def unread_masks(envs: VectorEnv) -> str | None:
    """Returns why masks that the environments keep are not used, in one line, or None.

    They are read from sub-environments that are made from an id or a function.
    """
    space, actions = envs.single_observation_space, envs.single_action_space
    remedy = "return it as info['action_mask'] from reset() and step()"
    if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
        if _is_mask(space, actions):
            return f"the mask in {FROM_OBS} is not read from a VectorEnv that is passed: {remedy}"
        shape = space.spaces["action_mask"].shape
        return (
            f"{FROM_OBS} has shape {shape}, not one entry for each of {getattr(actions, 'n', '?')} "
            f"actions, so it is no mask: {remedy}"
        )
    if _has_method(envs):
        return (
            f"the masks of {FROM_METHOD} are not read from a VectorEnv that is passed: {remedy}, "
            "or pass a function that makes one environment"
        )
    return None


def _is_mask(space: spaces.Space, actions: spaces.Space) -> bool:
    """Whether a Dict space has a mask with one entry for each action."""
    if not isinstance(space, spaces.Dict) or not isinstance(actions, spaces.Discrete):
        return False
    mask = space.spaces.get("action_mask")
    return mask is not None and mask.shape == (int(actions.n),)


def _has_method(envs: VectorEnv) -> bool:
    if lanes := sub_envs(envs):
        places: list[Any] = [layer for lane in lanes[:1] for layer in layers(lane)]
        return any(callable(getattr(place, "action_masks", None)) for place in places)
    inner = envs.unwrapped
    if isinstance(inner, AsyncVectorEnv):
        with contextlib.suppress(EOFError, OSError):  # start() reports a dead process
            return bool(ask_worker(inner, "has_wrapper_attr", "action_masks"))
    return callable(getattr(inner, "action_masks", None))
