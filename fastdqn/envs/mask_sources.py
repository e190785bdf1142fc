"""MaskSource: an action mask that a sub-environment keeps outside of its info."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.envs.declared_stack import ask_worker
from fastdqn.envs.env_layers import layers, sub_envs
from fastdqn.envs.worker_process import WorkerTarget

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

    They are read from sub-environments that are made from an id or a function, if the outermost
    wrapper has them.
    """
    space, actions = envs.single_observation_space, envs.single_action_space
    remedy = "return it as info['action_mask'] from reset() and step()"
    lanes = sub_envs(envs)
    if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
        if not _is_mask(space, actions):
            shape = space.spaces["action_mask"].shape
            return (
                f"{FROM_OBS} has shape {shape}, not one entry for each of "
                f"{getattr(actions, 'n', '?')} actions, so it is no mask: {remedy}"
            )
        return f"the mask in {FROM_OBS} is not read from a VectorEnv that is passed: {remedy}"
    for layer in layers(lanes[0]) if lanes else ():
        if _is_mask(layer.observation_space, layer.action_space):
            return f"a wrapper removes the mask in {FROM_OBS} of {type(layer).__name__}: {remedy}"
        if _is_no_method(layer):
            name = type(layer).__name__
            return f"action_masks of {name} is not used, since it is no method: define it as one"
    if _has_method(envs, lanes):
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


def _is_no_method(layer: gymnasium.Env) -> bool:
    """Whether action_masks is an attribute or a property that is no method."""
    known = inspect.getattr_static(layer, "action_masks", None)
    return known is not None and not callable(getattr(layer, "action_masks", None))


def _has_method(envs: VectorEnv, lanes: list[gymnasium.Env]) -> bool:
    if lanes:
        if hasattr(lanes[0], "mask_source"):  # made here, and the method returned None
            return False
        return any(callable(getattr(layer, "action_masks", None)) for layer in layers(lanes[0]))
    inner: Any = envs.unwrapped
    if isinstance(inner, AsyncVectorEnv):
        if isinstance(inner.worker, WorkerTarget):
            return False
        with contextlib.suppress(EOFError, OSError):  # start() reports a dead process
            return bool(ask_worker(inner, "has_wrapper_attr", "action_masks"))
    return callable(getattr(inner, "action_masks", None))
