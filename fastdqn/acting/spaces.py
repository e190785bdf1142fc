"""What an environment's spaces mean to the trainer, or a line that says why they cannot be used."""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces


class SpaceFacts(NamedTuple):
    """All that the rest of the program needs to know about one environment's spaces.

    obs_shape, obs_dtype  of one observation as it is stored: bytes stay bytes, the rest is float32
    obs_scale     factor that brings it to the network: 1/255 for bytes that span 0 to 255, else 1
    num_actions   A; actions are counted from 0 in here
    action_start  what the environment adds to that count
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    obs_scale: float
    num_actions: int
    action_start: int


def read_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> SpaceFacts:
    """Read the spaces of a single environment.

    Raises ValueError, one line with the remedy, where one of them cannot be trained on.
    """
    lines = [*_observation_problems(observation_space), *_action_problems(action_space)]
    if lines:
        raise ValueError("; ".join(lines))
    assert isinstance(observation_space, spaces.Box)
    assert isinstance(action_space, spaces.Discrete)
    dtype = observation_space.dtype
    stored = np.dtype(dtype if dtype.itemsize == 1 else np.float32)
    full_bytes = dtype == np.uint8 and observation_space.high.max() == 255
    return SpaceFacts(
        obs_shape=observation_space.shape,
        obs_dtype=stored,
        obs_scale=1.0 / 255.0 if full_bytes else 1.0,
        num_actions=int(action_space.n),
        action_start=int(action_space.start),
    )


def _observation_problems(space: spaces.Space) -> list[str]:
    if not isinstance(space, spaces.Box):
        return [
            f"observation space {space} is not a Box: wrap the environment with "
            "gymnasium.wrappers.FlattenObservation, or with a TransformObservation of yours"
        ]
    if np.prod(space.shape, dtype=np.int64) == 0:
        return [f"observation space {space} holds no numbers: there is nothing to learn from"]
    return []


def _action_problems(space: spaces.Space) -> list[str]:
    if isinstance(space, spaces.Discrete):
        return []
    if isinstance(space, spaces.Box):
        return [
            f"action space {space} is continuous and DQN needs Discrete actions: discretise it "
            "with gymnasium.wrappers.TransformAction, or use PPO or SAC, which fastdqn leaves "
            "to other libraries"
        ]
    return [
        f"action space {space} is not Discrete: wrap the environment with "
        "gymnasium.wrappers.TransformAction so that one number stands for each combination"
    ]
