"""MountainCar (Moore 1990) with the bits of Gymnasium's MountainCarEnv."""

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.same_bits import SameBits

_STATE = [("position", float), ("velocity", float)]
_LEFT, _RIGHT, _SPEED, _GOAL = -1.2, 0.6, 0.07, 0.5
_FORCE, _GRAVITY = 0.001, 0.0025


class Goal(NamedTuple):
    """Minimum velocity at the goal."""

    velocity: float


def reset(state, rng, goal):
    state.position = rng.uniform(-0.6, -0.4)
    state.velocity = 0.0


def step(state, action, rng, goal):
    velocity = state.velocity + ((action - 1) * _FORCE + math.cos(3 * state.position) * (-_GRAVITY))
    velocity = min(max(velocity, -_SPEED), _SPEED)
    position = min(max(state.position + velocity, _LEFT), _RIGHT)
    if position == _LEFT and velocity < 0:
        velocity = 0.0
    state.position, state.velocity = position, velocity
    return -1.0, position >= _GOAL and velocity >= goal.velocity


def observe(state, out, goal):
    out[0], out[1] = state.position, state.velocity


def definition(goal_velocity: float = 0.0) -> EnvDefinition:
    """Returns MountainCar-v0."""
    low = np.array([_LEFT, -_SPEED], np.float32)
    high = np.array([_RIGHT, _SPEED], np.float32)
    return EnvDefinition(
        state=_STATE, observation_space=gymnasium.spaces.Box(low, high, dtype=np.float32),
        action_space=gymnasium.spaces.Discrete(3), reset=reset, step=step, observe=observe,
        params=Goal(float(goal_velocity)), max_episode_steps=200,
    )  # fmt: skip


def _build(env_id: str, kwargs: dict[str, Any]) -> EnvDefinition:
    return definition(**kwargs)


SAME_BITS = {
    "MountainCar-v0": SameBits(
        "gymnasium.envs.classic_control.mountain_car:MountainCarEnv",
        frozenset({"goal_velocity"}), _build,
    )
}  # fmt: skip
