"""Catch (Mnih et al. 2014; bsuite): a ball falls, and a paddle in the lowest row must be below."""

import gymnasium
import numpy as np

from fastdqn.compiled.definition import EnvDefinition

_ROWS, _COLUMNS = 10, 5
_STATE = [("ball_row", int), ("ball_column", int), ("paddle", int)]
_SCALE = 20  # pixels of a cell


def reset(state, rng):
    state.ball_row = 0
    state.ball_column = rng.integers(0, _COLUMNS)
    state.paddle = _COLUMNS // 2


def step(state, action, rng):
    """Moves the paddle left, not at all or right. The last row ends the episode with 1 or -1."""
    state.paddle = min(max(state.paddle + action - 1, 0), _COLUMNS - 1)
    state.ball_row += 1
    ended = state.ball_row == _ROWS - 1
    caught = state.paddle == state.ball_column
    return (1.0 if caught else -1.0) if ended else 0.0, ended


def observe(state, out):
    out[:] = 0.0
    out[state.ball_row, state.ball_column] = 1.0
    out[_ROWS - 1, state.paddle] = 1.0


def render(state):
    """Draws the ball and the paddle as white squares."""
    board = np.zeros((_ROWS, _COLUMNS), np.float32)
    observe(state, board)
    large = np.kron(board, np.ones((_SCALE, _SCALE))) * 255
    return np.repeat(large.astype(np.uint8)[..., None], 3, axis=2)


def definition() -> EnvDefinition:
    """Returns fastdqn/Catch-v0."""
    return EnvDefinition(
        state=_STATE, observation_space=gymnasium.spaces.Box(0, 1, (_ROWS, _COLUMNS), np.float32),
        action_space=gymnasium.spaces.Discrete(3), reset=reset, step=step, observe=observe,
        render=render, render_fps=5, max_episode_steps=_ROWS,
    )  # fmt: skip
