"""What an environment's spaces mean to the trainer, or a line that says why they cannot be used."""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from fastdqn.envs.autoreset import read_mode
from fastdqn.envs.frame_stack import declared_stack
from fastdqn.envs.observations import ObsReader, short


class EnvFacts(NamedTuple):
    """All that the rest of the program needs to know about one environment.

    obs_shape, obs_dtype  of one observation as it is stored, see ObsReader
    obs_scale     factor that brings it to the network: 1/255 for bytes that span 0 to 255, else 1
    num_actions   A; actions are counted from 0 in here
    action_start  what the environment adds to that count
    has_masks     whether a reset gave info["action_mask"]; spaces alone do not tell
    max_episode_steps  its own time limit, where one is known
    stack  frames K on the first axis of an observation, newest last; 1: not stacked
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    obs_scale: float
    num_actions: int
    action_start: int
    has_masks: bool = False
    max_episode_steps: int | None = None
    stack: int = 1


def read_facts(envs: VectorEnv) -> EnvFacts:
    """What a vector environment says of each lane, and that it can be used at all.

    Raises ValueError, one line, as read_spaces() does, and where the number of environments or the
    autoreset mode is none.
    """
    if (line := count_problem(envs)) is not None:
        raise ValueError(line)
    read_mode(envs)
    facts = read_spaces(envs.single_observation_space, envs.single_action_space)
    return facts._replace(stack=declared_stack(envs))


def count_problem(envs: VectorEnv) -> str | None:
    """Why a vector environment's num_envs is no number of environments, in one line, or None."""
    count = envs.num_envs
    if isinstance(count, int | np.integer) and not isinstance(count, bool) and count >= 1:
        return None
    name = type(envs).__name__
    return f"num_envs of {name} is {count!r:.60}: a whole number, at least 1, expected"


def read_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> EnvFacts:
    """Read the spaces of a single environment.

    Raises ValueError, one line with the remedy, where one of them cannot be trained on.
    """
    lines, reader = _action_problems(action_space), None
    try:
        reader = ObsReader(observation_space)
    except ValueError as error:
        lines.insert(0, str(error))
    if lines or reader is None:
        raise ValueError("; ".join(lines))
    assert isinstance(action_space, spaces.Discrete)
    return EnvFacts(
        obs_shape=reader.shape,
        obs_dtype=reader.dtype,
        obs_scale=reader.scale,
        num_actions=int(action_space.n),
        action_start=int(action_space.start),
    )


def _action_problems(space: spaces.Space) -> list[str]:
    if isinstance(space, spaces.Discrete):
        return []
    if isinstance(space, spaces.Box):
        return [
            f"action space {short(space)} is continuous and DQN needs Discrete actions: discretise "
            "it with gymnasium.wrappers.TransformAction, given as --wrapper my_package:my_wrapper, "
            "or use PPO or SAC, which fastdqn leaves to other libraries"
        ]
    return [
        f"action space {short(space)} is not Discrete: let one number stand for each combination "
        "with gymnasium.wrappers.TransformAction, given as --wrapper my_package:my_wrapper"
    ]
