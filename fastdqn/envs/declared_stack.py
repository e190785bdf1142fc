"""declared_stack(): the number of stacked frames that an environment declares."""

from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation

from fastdqn.envs.env_layers import layers
from fastdqn.envs.optional_packages import is_from


def declared_stack(envs: VectorEnv) -> int:
    """Returns K if an observation is a Box of K frames on its first axis, newest last; else 1.

    The stack must be declared: by Gymnasium's FrameStackObservation around the sub-environments, or
    by the arguments of ale-py's and EnvPool's vector environments. It is never guessed from a
    shape.
    """
    space = envs.single_observation_space
    stack = _declared(envs.unwrapped)
    # An outer wrapper that changes the shape also breaks up the stack.
    is_stack = isinstance(space, spaces.Box) and space.shape[:1] == (stack,)
    return stack if is_stack else 1


def _declared(envs: Any) -> int:
    if isinstance(envs, SyncVectorEnv):
        declared = {stack_of(lane) for lane in envs.envs}
        return declared.pop() if len(declared) == 1 else 1
    if isinstance(envs, AsyncVectorEnv):
        return _of_process(envs)
    if isinstance(stack := getattr(envs, "declared_stack", None), int):  # WorkerVectorEnv's
        return stack
    if is_from(envs, "ale_py", "AtariVectorEnv"):
        return envs.single_observation_space.shape[0]
    if is_from(envs, "envpool", "EnvPoolMixin"):
        return int(envs.config.get("stack_num", 1))
    return 1


def stack_of(env: gymnasium.Env) -> int:
    """Returns the number of frames that the wrappers of one environment declare, or 1."""
    for layer in layers(env):
        if isinstance(layer, FrameStackObservation):
            # An outer wrapper may have changed the shape.
            return layer.stack_size if layer.observation_space.shape == _shape(env) else 1
    return 1


def _of_process(envs: AsyncVectorEnv) -> int:
    """Asks the first worker process; start() reports a dead one."""
    try:
        if ask_worker(envs, "has_wrapper_attr", "stack_size"):
            return int(ask_worker(envs, "get_wrapper_attr", "stack_size"))
    except (EOFError, OSError, TypeError, ValueError):
        pass
    return 1


def ask_worker(envs: AsyncVectorEnv, method: str, name: str) -> Any:
    """Calls a method of the first worker's environment with a name; None if it raises."""
    pipe = envs.parent_pipes[0]
    pipe.send(("_call", (method, (name,), {})))
    answer, is_well = pipe.recv()
    return answer if is_well else None


def _shape(env: gymnasium.Env) -> tuple[int, ...] | None:
    return env.observation_space.shape
