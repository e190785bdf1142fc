"""Compiled environments for tests: scripted episodes, and one of each kind of space."""

from typing import NamedTuple

import gymnasium
import numpy as np

from fastdqn.compiled import CompiledVectorEnv, EnvDefinition
from helpers.oracles import BOTH, NUM_ACTIONS, TERMINATED


class Scripts(NamedTuple):
    """length[env, episode] and terminated[env, episode]; the first `episodes`[env] repeat."""

    length: np.ndarray
    terminated: np.ndarray
    episodes: np.ndarray


def scripted_reset(state, rng, scripts):
    state.episode += 1
    state.t = 0


def scripted_step(state, action, rng, scripts):
    """As ScriptedEnv, but the time limit truncates."""
    reward = state.lane + state.episode / 8 + state.t / 64 - 2 * action
    which = state.episode % scripts.episodes[state.lane]
    state.t += 1
    over = state.t == scripts.length[state.lane, which]
    return reward, over and scripts.terminated[state.lane, which]


def scripted_observe(state, out, scripts):
    out[0], out[1], out[2] = state.lane, state.episode, state.t


def scripted_mask(state, out, scripts):
    """Allows all actions but one."""
    for k in range(len(out)):
        out[k] = (state.lane + state.episode + state.t) % len(out) != k


def scripted_compiled(scripts, limit: int, mode, masked: bool = False, **kwargs):
    """Returns a CompiledVectorEnv with one environment for each script of the oracle.

    Every episode that is truncated has `limit` steps, since only a time limit truncates.
    """
    shape = len(scripts), max(map(len, scripts))
    length, terminated = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for lane, script in enumerate(scripts):
        for i, (steps, end) in enumerate(script):
            assert (steps == limit) == (end != TERMINATED)
            length[lane, i], terminated[lane, i] = steps, end in (TERMINATED, BOTH)
    definition = EnvDefinition(
        state=[("lane", int), ("episode", int), ("t", int)],
        observation_space=gymnasium.spaces.Box(0, 1e6, (3,), np.float32),
        action_space=gymnasium.spaces.Discrete(NUM_ACTIONS), reset=scripted_reset,
        step=scripted_step, observe=scripted_observe, mask=scripted_mask if masked else None,
        params=Scripts(length, terminated, np.array([len(script) for script in scripts])),
        max_episode_steps=limit,
    )  # fmt: skip
    envs = CompiledVectorEnv(definition, len(scripts), autoreset_mode=mode, **kwargs)
    envs.states.lane, envs.states.episode = np.arange(len(scripts)), -1
    return envs


def walk_reset(state, rng):
    """Draws with every kind of number that an environment may want."""
    state.place = rng.integers(0, 7)
    state.weight = rng.normal(1.0, 0.5)
    state.board[:] = 0
    state.board[rng.integers(0, 2), rng.integers(0, 3)] = 1


def walk_step(state, action, rng):
    state.place = (state.place + action + (rng.random() < 0.3)) % 7
    state.weight += rng.uniform(-1.0, 1.0) + rng.exponential(0.1)
    state.board[rng.integers(0, 2), action % 3] += 1
    return state.weight, state.place == 6 and state.board.sum() > 4


def walk_observe(state, out):
    out[0] = state.place + 3


def walk_mask(state, out):
    out[:] = 1
    out[state.place % len(out)] = 0


def walk(**changes) -> EnvDefinition:
    """Returns a random walk with Discrete observations from 3 on and actions from 0 on."""
    parts = {
        "state": [("place", int), ("weight", float), ("board", np.int8, (2, 3))],
        "observation_space": gymnasium.spaces.Discrete(7, start=3),
        "action_space": gymnasium.spaces.Discrete(3),
        "reset": walk_reset, "step": walk_step, "observe": walk_observe, "mask": walk_mask,
        "max_episode_steps": 9,
    }  # fmt: skip
    return EnvDefinition(**{**parts, **changes})
