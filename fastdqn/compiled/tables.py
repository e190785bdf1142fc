"""Gymnasium's toy text environments as tables, with their bits: FrozenLake, Taxi, CliffWalking."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numba.extending import register_jitable

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.same_bits import SameBits

_STATE = [("cell", np.int64)]


class Tables(NamedTuple):
    """Transitions of S states and A actions, with at most K outcomes each.

    Attributes:
        start: float64[S], cumulative probabilities of the first state.
        chance: float64[S, A, K], cumulative probabilities of the outcomes; -1 where there is none.
        next_cell: int64[S, A, K].
        reward: float64[S, A, K].
        terminated: bool[S, A, K].
        mask: int8[S, A], which actions are valid.
    """

    start: np.ndarray
    chance: np.ndarray
    next_cell: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    mask: np.ndarray


def reset(state, rng, tables):
    state.cell = _draw(tables.start, rng)


def step(state, action, rng, tables):
    outcome = _draw(tables.chance[state.cell, action], rng)
    row = (state.cell, action, outcome)
    state.cell = tables.next_cell[row]
    return tables.reward[row], tables.terminated[row]


def observe(state, out, tables):
    out[0] = state.cell


def mask(state, out, tables):
    out[:] = tables.mask[state.cell]


@register_jitable
def _draw(cumulative, rng):
    """Returns the first index above a random number, as Gymnasium's categorical_sample()."""
    chance = rng.random()
    for i in range(len(cumulative)):
        if cumulative[i] > chance:
            return i
    return 0


def _tables(env: Any) -> Tables:
    cells, actions = int(env.observation_space.n), int(env.action_space.n)
    outcomes = max(len(env.P[cell][action]) for cell in env.P for action in env.P[cell])
    shape = (cells, actions, outcomes)
    chance, reward = np.full(shape, -1.0), np.zeros(shape)
    next_cell, terminated = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for cell, action in np.ndindex(cells, actions):
        rows = env.P[cell][action]
        for k, (_, there, gain, ended) in enumerate(rows):
            next_cell[cell, action, k], reward[cell, action, k] = there, gain
            terminated[cell, action, k] = ended
        chance[cell, action, : len(rows)] = np.cumsum([row[0] for row in rows])
    valid = np.ones((cells, actions), np.int8)
    if hasattr(env, "action_mask"):
        valid = np.array([env.action_mask(cell) for cell in range(cells)], np.int8)
    start = np.cumsum(np.asarray(env.initial_state_distrib))
    return Tables(start, chance, next_cell, reward, terminated, valid)


def _build(env_id: str, kwargs: dict[str, Any]) -> EnvDefinition:
    """Reads the tables of an environment that is made for it."""
    env: Any = gymnasium.make(env_id, **kwargs).unwrapped
    try:
        return EnvDefinition(
            state=_STATE, observation_space=env.observation_space, action_space=env.action_space,
            reset=reset, step=step, observe=observe,
            mask=mask if hasattr(env, "action_mask") else None, params=_tables(env),
            max_episode_steps=gymnasium.spec(env_id).max_episode_steps,
        )  # fmt: skip
    finally:
        env.close()


def _has_a_map(arguments: dict[str, Any]) -> bool:
    """Without one, FrozenLake draws a map for each environment."""
    return arguments.get("map_name") is not None or arguments.get("desc") is not None


def _entries(
    place: str,
    arguments: tuple[str, ...],
    *ids: str,
    fits: Callable[[dict[str, Any]], bool] = lambda arguments: True,
) -> dict[str, SameBits]:
    entry = SameBits(f"gymnasium.envs.toy_text.{place}", frozenset(arguments), _build, fits)
    return dict.fromkeys(ids, entry)


SAME_BITS = {
    **_entries(
        "frozen_lake:FrozenLakeEnv",
        ("desc", "map_name", "is_slippery", "success_rate", "reward_schedule"),
        "FrozenLake-v1", "FrozenLake8x8-v1", fits=_has_a_map,
    ),
    **_entries(
        "cliffwalking:CliffWalkingEnv", ("is_slippery",),
        "CliffWalking-v1", "CliffWalkingSlippery-v1",
    ),
    # A fickle passenger changes the destination in a step, which is not in the table.
    **_entries("taxi:TaxiEnv", ("is_rainy",), "Taxi-v3", "Taxi-v4"),
}  # fmt: skip
