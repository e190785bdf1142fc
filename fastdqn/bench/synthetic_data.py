"""Synthetic data: random observations, masks, steps and batches."""

from typing import Any, NamedTuple

import numpy as np

from fastdqn.envs import EnvFacts
from fastdqn.replay import Batch, Replay


class SyntheticStep(NamedTuple):
    """Step results of some lanes, as replay.append() takes them, see StepLike."""

    lanes: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    start_lanes: np.ndarray
    start_obs: np.ndarray
    next_mask: np.ndarray | None
    start_mask: np.ndarray | None


def random_obs(rng: np.random.Generator, count: int, shape: tuple[int, ...], dtype: Any):
    """Returns [count, *shape]: normal floats, uniform integers, or booleans."""
    dtype = np.dtype(dtype)
    size = (count, *shape)
    if dtype == np.bool_:
        return rng.random(size) < 0.5
    if dtype.kind in "ui":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return rng.integers(low, high, size, dtype, endpoint=True)
    return rng.standard_normal(size, np.float32).astype(dtype)


def random_mask(rng: np.random.Generator, count: int, num_actions: int) -> np.ndarray:
    """Returns bool[count, A], with at least one allowed action in each row."""
    mask = rng.random((count, num_actions)) < 0.5
    mask[np.arange(count), rng.integers(num_actions, size=count)] = True
    return mask


def random_step(rng: np.random.Generator, lanes: np.ndarray, facts: EnvFacts) -> SyntheticStep:
    """Returns a transition of each of lanes, int64[R]. No episode ends."""
    count = len(lanes)
    never = np.zeros(count, np.bool_)
    obs = random_obs(rng, count, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, count, facts.num_actions) if facts.has_masks else None
    nothing = np.empty(0, np.int64)
    return SyntheticStep(
        lanes, rng.integers(facts.num_actions, size=count),
        rng.standard_normal(count, np.float32), never, never, obs, nothing, obs[:0], mask,
        None if mask is None else mask[:0],
    )  # fmt: skip


def deliveries(num_lanes: int, of_a_call: int, facts: EnvFacts) -> list[SyntheticStep]:
    """Returns transitions of of_a_call lanes per call, which cover every lane.

    There are at least 16 calls, since a single one would stay in the cache.
    """
    rng = np.random.default_rng(0)
    calls = max(16, -(-num_lanes // of_a_call))
    steps = [
        random_step(rng, (i * of_a_call + np.arange(of_a_call)) % num_lanes, facts)
        for i in range(calls)
    ]
    if facts.stack > 1:
        # All frames of a lane are equal, so that each stack is a valid successor of any other.
        rng = np.random.default_rng(1)
        frames = random_obs(rng, num_lanes, facts.obs_shape[1:], facts.obs_dtype)
        for step in steps:
            step.next_obs[:] = frames[step.lanes, None]
    return steps


def fill_replay(replay: Replay, facts: EnvFacts, rows_per_lane: int) -> None:
    """Starts an episode in every lane and stores rows_per_lane transitions in each."""
    lanes = replay.ring.num_lanes
    steps = deliveries(lanes, lanes, facts)
    replay.start(steps[0].lanes, steps[0].next_obs, steps[0].next_mask)
    for i in range(rows_per_lane):
        replay.append(steps[i % len(steps)])


def fill_batch(batch: Batch, facts: EnvFacts) -> None:
    """Fills the arrays of a host batch with random values."""
    rng = np.random.default_rng(0)
    size = len(batch.index)
    for obs in (batch.obs, batch.next_obs):
        obs[:] = random_obs(rng, size, facts.obs_shape, facts.obs_dtype)
    batch.action[:] = rng.integers(facts.num_actions, size=size)
    batch.reward[:] = rng.standard_normal(size)
    batch.discount[:] = 0.99
    batch.weight[:] = 1.0
    if batch.next_mask is not None:
        batch.next_mask[:] = random_mask(rng, size, facts.num_actions)
