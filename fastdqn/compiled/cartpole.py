"""CartPole (Barto, Sutton and Anderson 1983) with the bits of Gymnasium's CartPoleEnv."""

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.same_bits import SameBits

_STATE = [
    ("x", float), ("x_dot", float), ("theta", float), ("theta_dot", float), ("sin", float),
    ("cos", float),
]  # fmt: skip
_GRAVITY, _CART, _POLE, _LENGTH, _FORCE, _TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
_TOTAL, _POLE_LENGTH = _POLE + _CART, _POLE * _LENGTH
_FAR, _STEEP = 2.4, 12 * 2 * math.pi / 360


class Rewards(NamedTuple):
    """Rewards of a step, and of the step that ends an episode."""

    step: float
    end: float


def reset(state, rng, rewards):
    state.x = rng.uniform(-0.05, 0.05)
    state.x_dot = rng.uniform(-0.05, 0.05)
    state.theta = rng.uniform(-0.05, 0.05)
    state.theta_dot = rng.uniform(-0.05, 0.05)


def before_step(states):
    """Takes sine and cosine from NumPy, as Gymnasium does: compiled ones differ in the last bit."""
    theta, sin, cos = states["theta"], states["sin"], states["cos"]
    angle, value = np.zeros((2, len(states)))

    def take() -> None:
        np.copyto(angle, theta)
        np.copyto(sin, np.sin(angle, out=value))
        np.copyto(cos, np.cos(angle, out=value))

    return take


def step(state, action, rng, rewards):
    """Integrates by the explicit Euler method, in Gymnasium's order of operations."""
    x, x_dot, theta, theta_dot = state.x, state.x_dot, state.theta, state.theta_dot
    sin, cos = state.sin, state.cos
    force = _FORCE if action == 1 else -_FORCE
    temp = (force + _POLE_LENGTH * (theta_dot * theta_dot) * sin) / _TOTAL
    theta_acc = (_GRAVITY * sin - cos * temp) / (
        _LENGTH * (4.0 / 3.0 - _POLE * (cos * cos) / _TOTAL)
    )
    x_acc = temp - _POLE_LENGTH * theta_acc * cos / _TOTAL
    state.x, state.x_dot = x + _TAU * x_dot, x_dot + _TAU * x_acc
    state.theta, state.theta_dot = theta + _TAU * theta_dot, theta_dot + _TAU * theta_acc
    terminated = abs(state.x) > _FAR or abs(state.theta) > _STEEP
    return rewards.end if terminated else rewards.step, terminated


def observe(state, out, rewards):
    out[0], out[1], out[2], out[3] = state.x, state.x_dot, state.theta, state.theta_dot


def definition(sutton_barto_reward: bool = False) -> EnvDefinition:
    """Returns CartPole-v1. sutton_barto_reward: rewards of 0, and of -1 at the end."""
    high = np.array([2 * _FAR, np.inf, 2 * _STEEP, np.inf], np.float32)
    return EnvDefinition(
        state=_STATE, observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32),
        action_space=gymnasium.spaces.Discrete(2), reset=reset, step=step, observe=observe,
        params=Rewards(0.0, -1.0) if sutton_barto_reward else Rewards(1.0, 1.0),
        before_step=before_step, max_episode_steps=500,
    )  # fmt: skip


def _build(env_id: str, kwargs: dict[str, Any]) -> EnvDefinition:
    return definition(**kwargs)


_ENTRY = SameBits(
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv", frozenset({"sutton_barto_reward"}),
    _build,
)  # fmt: skip
SAME_BITS = {"CartPole-v0": _ENTRY, "CartPole-v1": _ENTRY}
