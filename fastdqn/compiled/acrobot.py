"""Acrobot (Sutton 1996), compiled: Gymnasium's AcrobotEnv but for the last bits.

The pendulum is chaotic, so sine and cosine of another library, equal to 1e-15, lead to another
episode after some hundred steps. It has an id of its own for that reason.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from numba.extending import register_jitable

from fastdqn.compiled.definition import EnvDefinition

_STATE = [("theta1", float), ("theta2", float), ("velocity1", float), ("velocity2", float)]
_MASS1 = _MASS2 = _LENGTH1 = _INERTIA1 = _INERTIA2 = 1.0
_CENTER1 = _CENTER2 = 0.5
_GRAVITY, _TAU = 9.8, 0.2
_FASTEST1, _FASTEST2 = 4 * math.pi, 9 * math.pi


def reset(state, rng):
    """Draws as Gymnasium does, which rounds to float32."""
    state.theta1 = np.float32(rng.uniform(-0.1, 0.1))
    state.theta2 = np.float32(rng.uniform(-0.1, 0.1))
    state.velocity1 = np.float32(rng.uniform(-0.1, 0.1))
    state.velocity2 = np.float32(rng.uniform(-0.1, 0.1))


def step(state, action, rng):
    """Integrates by one Runge-Kutta step of fourth order."""
    a, b, c, d = state.theta1, state.theta2, state.velocity1, state.velocity2
    torque, half = action - 1.0, _TAU / 2.0
    a1, b1, c1, d1 = _derivative(a, b, c, d, torque)
    a2, b2, c2, d2 = _derivative(a + half * a1, b + half * b1, c + half * c1, d + half * d1, torque)
    a3, b3, c3, d3 = _derivative(a + half * a2, b + half * b2, c + half * c2, d + half * d2, torque)
    a4, b4, c4, d4 = _derivative(a + _TAU * a3, b + _TAU * b3, c + _TAU * c3, d + _TAU * d3, torque)
    sixth = _TAU / 6.0
    state.theta1 = _wrapped(a + sixth * (a1 + 2 * a2 + 2 * a3 + a4))
    state.theta2 = _wrapped(b + sixth * (b1 + 2 * b2 + 2 * b3 + b4))
    c += sixth * (c1 + 2 * c2 + 2 * c3 + c4)
    d += sixth * (d1 + 2 * d2 + 2 * d3 + d4)
    state.velocity1 = min(max(c, -_FASTEST1), _FASTEST1)
    state.velocity2 = min(max(d, -_FASTEST2), _FASTEST2)
    above = -math.cos(state.theta1) - math.cos(state.theta2 + state.theta1) > 1.0
    return 0.0 if above else -1.0, above


def observe(state, out):
    out[0], out[1] = math.cos(state.theta1), math.sin(state.theta1)
    out[2], out[3] = math.cos(state.theta2), math.sin(state.theta2)
    out[4], out[5] = state.velocity1, state.velocity2


@register_jitable
def _derivative(theta1, theta2, velocity1, velocity2, torque):
    """Returns the time derivatives of the state (Sutton and Barto, the book's equations)."""
    cos2, sin2 = math.cos(theta2), math.sin(theta2)
    d1 = (
        _MASS1 * _CENTER1**2
        + _MASS2 * (_LENGTH1**2 + _CENTER2**2 + 2 * _LENGTH1 * _CENTER2 * cos2)
        + _INERTIA1
        + _INERTIA2
    )
    d2 = _MASS2 * (_CENTER2**2 + _LENGTH1 * _CENTER2 * cos2) + _INERTIA2
    phi2 = _MASS2 * _CENTER2 * _GRAVITY * math.cos(theta1 + theta2 - math.pi / 2.0)
    phi1 = (
        -_MASS2 * _LENGTH1 * _CENTER2 * velocity2**2 * sin2
        - 2 * _MASS2 * _LENGTH1 * _CENTER2 * velocity2 * velocity1 * sin2
        + (_MASS1 * _CENTER1 + _MASS2 * _LENGTH1) * _GRAVITY * math.cos(theta1 - math.pi / 2)
        + phi2
    )
    acceleration2 = (
        torque + d2 / d1 * phi1 - _MASS2 * _LENGTH1 * _CENTER2 * velocity1**2 * sin2 - phi2
    ) / (_MASS2 * _CENTER2**2 + _INERTIA2 - d2**2 / d1)
    return velocity1, velocity2, -(d2 * acceleration2 + phi1) / d1, acceleration2


@register_jitable
def _wrapped(angle):
    """Returns an angle between -pi and pi."""
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle < -math.pi:
        angle += 2 * math.pi
    return angle


def render(state):
    """Draws with Gymnasium's AcrobotEnv."""
    env: Any = gymnasium.make("Acrobot-v1", render_mode="rgb_array").unwrapped
    env.state = np.array([state.theta1, state.theta2, state.velocity1, state.velocity2])
    picture = env.render()
    env.close()
    return picture


def definition() -> EnvDefinition:
    """Returns fastdqn/Acrobot-v1."""
    high = np.array([1, 1, 1, 1, _FASTEST1, _FASTEST2], np.float32)
    return EnvDefinition(
        state=_STATE, observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32),
        action_space=gymnasium.spaces.Discrete(3), reset=reset, step=step, observe=observe,
        render=render, max_episode_steps=500, render_fps=15,
    )  # fmt: skip
