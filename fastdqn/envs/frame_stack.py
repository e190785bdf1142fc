"""declared_stack(): how many frames of the past an environment says are in each observation."""

from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation

from fastdqn.envs.optional_packages import is_from
from fastdqn.envs.sub_env import layers


def declared_stack(envs: VectorEnv) -> int:
    """K where an observation is a Box of K frames on its first axis, newest last, and it is said
    so: by Gymnasium's FrameStackObservation around the lanes, or by what ale-py's and EnvPool's
    vector environments were made with. 1 where nobody says it: it is never guessed from a shape.
    """
    space = envs.single_observation_space
    stack = _said(envs.unwrapped)
    # What a wrapper further out has turned into another shape is no stack of the inner one's.
    is_stack = isinstance(space, spaces.Box) and space.shape[:1] == (stack,)
    return stack if is_stack else 1


def _said(envs: Any) -> int:
    if isinstance(envs, SyncVectorEnv):
        said = {_of_lane(lane) for lane in envs.envs}
        return said.pop() if len(said) == 1 else 1
    if isinstance(envs, AsyncVectorEnv):
        return _of_process(envs)
    if is_from(envs, "ale_py", "AtariVectorEnv"):
        return envs.single_observation_space.shape[0]
    if is_from(envs, "envpool", "EnvPoolMixin"):
        return int(envs.config.get("stack_num", 1))
    return 1


def _of_lane(env: gymnasium.Env) -> int:
    for layer in layers(env):
        if isinstance(layer, FrameStackObservation):
            # A frame of another shape further out has been changed since.
            return layer.stack_size if layer.observation_space.shape == _shape(env) else 1
    return 1


def _of_process(envs: AsyncVectorEnv) -> int:
    """The first lane is asked, in its process: one that is no more is told of by start()."""
    try:
        if ask_worker(envs, "has_wrapper_attr", "stack_size"):
            return int(ask_worker(envs, "get_wrapper_attr", "stack_size"))
    except (EOFError, OSError, TypeError, ValueError):
        pass
    return 1


def ask_worker(envs: AsyncVectorEnv, method: str, name: str) -> Any:
    """What a method of the first worker's environment gives for a name; None where it raises."""
    pipe = envs.parent_pipes[0]
    pipe.send(("_call", (method, (name,), {})))
    answer, is_well = pipe.recv()
    return answer if is_well else None


def _shape(env: gymnasium.Env) -> tuple[int, ...] | None:
    return env.observation_space.shape
