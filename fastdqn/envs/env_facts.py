"""EnvFacts: the properties of an environment that training needs, read from its spaces."""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from fastdqn.envs.action_masks import FROM_INFO
from fastdqn.envs.autoreset import read_mode
from fastdqn.envs.declared_stack import declared_stack
from fastdqn.envs.observations import ObsReader, short


class EnvFacts(NamedTuple):
    """Properties of one environment.

    Attributes:
        obs_shape: Shape of one observation as it is stored, see ObsReader.
        obs_dtype: Its dtype.
        obs_scale: Factor applied before the network: 1/255 for bytes that span 0 to 255, else 1.
        num_actions: A; actions are counted from 0 inside the package.
        action_start: The number that the environment gives to action 0.
        has_masks: Whether a reset returned an action mask; spaces do not show it.
        mask_source: Where the masks are, if there are any.
        max_episode_steps: The environment's time limit, if known.
        stack: Number of frames on the first axis of an observation, newest last; 1: not stacked.
        observation_space: The space that recorded observations are read by, if known.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    obs_scale: float
    num_actions: int
    action_start: int
    has_masks: bool = False
    mask_source: str = FROM_INFO
    max_episode_steps: int | None = None
    stack: int = 1
    observation_space: spaces.Space | None = None

    def __str__(self) -> str:
        """Lists what was found, as the start of a run prints it."""
        limit = self.max_episode_steps
        parts = [
            f"observations {list(self.obs_shape)} {self.obs_dtype}",
            f"{self.num_actions} action{'s' * (self.num_actions > 1)}",
            "no time limit declared" if limit is None else f"time limit {limit:,} steps",
        ]
        if self.has_masks:
            parts.append(f"action masks from {self.mask_source}")
        if self.stack > 1:
            parts.append(f"{self.stack} stacked frames")
        return ", ".join(parts)


def read_facts(envs: VectorEnv) -> EnvFacts:
    """Reads the properties of a vector environment.

    Raises:
        ValueError: The spaces are not supported, or num_envs or the autoreset mode is invalid.
    """
    if (line := count_problem(envs)) is not None:
        raise ValueError(line)
    read_mode(envs)
    facts = read_spaces(envs.single_observation_space, envs.single_action_space)
    return facts._replace(stack=declared_stack(envs))


def count_problem(envs: VectorEnv) -> str | None:
    """Returns why the num_envs of a vector environment is invalid, in one line, or None."""
    count = envs.num_envs
    if isinstance(count, int | np.integer) and not isinstance(count, bool) and count >= 1:
        return None
    name = type(envs).__name__
    return f"num_envs of {name} is {count!r:.60}, must be an integer of at least 1"


def read_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> EnvFacts:
    """Reads the spaces of a single environment.

    Raises:
        ValueError: One of them is not supported; the message has a remedy.
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
        observation_space=observation_space,
    )


def _action_problems(space: spaces.Space) -> list[str]:
    if isinstance(space, spaces.Discrete):
        return []
    if isinstance(space, spaces.Box):
        return [
            f"action space {short(space)} is continuous, but DQN needs a Discrete one: "
            "discretize it with gymnasium.wrappers.TransformAction, given as "
            "--wrapper my_package:my_wrapper, or use PPO or SAC of another library"
        ]
    return [
        f"action space {short(space)} is not Discrete: map each combination to one number with "
        "gymnasium.wrappers.TransformAction, given as --wrapper my_package:my_wrapper"
    ]
