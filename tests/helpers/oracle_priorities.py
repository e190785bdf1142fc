"""Slow twins of prioritized sampling: a tree that is a list, and leaves that are a dict of rows.

And the experience that its tests feed to it.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from fastdqn.replay import Batch, PrioritizedSampler, Replay, RowStore
from fastdqn.replay.ring import OPEN
from helpers.oracles import Outcome, make_replay

LEAST_PRIORITY = 1e-6


def order_of_tree(num_slots: int) -> np.ndarray:
    """Returns the slots from left to right: leaves of the lowest level come first."""
    lowest = 1 << (2 * num_slots - 1).bit_length() - 1
    return np.roll(np.arange(num_slots), -(lowest - num_slots))


class TwinTree:
    """A sum tree as a list of leaves, computed naively."""

    def __init__(self, num_slots: int):
        self.leaves = np.zeros(num_slots)
        self.order = order_of_tree(num_slots)

    def set(self, slots, leaves) -> None:
        for slot, leaf in zip(slots, leaves, strict=True):
            self.leaves[slot] = leaf

    def find(self, targets) -> np.ndarray:
        return self.order[np.searchsorted(np.cumsum(self.leaves[self.order]), targets, "right")]


class PriorityModel:
    """The leaf of each valid row by its absolute id, updated after each call of the replay."""

    def __init__(self, exponent: float):
        self.exponent, self.largest = exponent, 1.0
        self.leaves: dict[int, float] = {}

    def follow(self, valid: Iterable[int]) -> None:
        self.leaves = {row: self.leaves.get(row, self.largest) for row in valid}

    def update(self, index, priority) -> None:
        for row, size in zip(index.tolist(), priority.tolist(), strict=True):
            if row in self.leaves and math.isfinite(size):
                self.leaves[row] = (abs(size) + LEAST_PRIORITY) ** self.exponent
                self.largest = max(self.largest, self.leaves[row])

    def by_slot(self, num_lanes: int, rows: int) -> np.ndarray:
        found = np.zeros((num_lanes, rows))
        for row, leaf in self.leaves.items():
            found[row % num_lanes, row // num_lanes % rows] = leaf
        return found.reshape(-1)

    def weights(self, index: np.ndarray, beta: float) -> np.ndarray:
        """Returns (1 / (M P(i)))^beta for M valid rows, divided by the largest, as in the paper."""
        total, count = sum(self.leaves.values()), len(self.leaves)
        weights = [(total / (count * self.leaves[row])) ** beta for row in index.tolist()]
        return np.array(weights) / max(weights)


def make_prioritized(
    num_lanes=1,
    rows=32,
    n_steps=1,
    gamma=0.5,
    stack=1,
    obs_shape: tuple[int, ...] = (),
    seed=0,
    exponent=0.6,
    beta: Callable[[int], float] = lambda steps: 1.0,
    store: type = RowStore,
) -> tuple[Replay, PrioritizedSampler]:
    plain = make_replay(num_lanes, rows, n_steps, gamma, stack, obs_shape, store=store)
    sampler = PrioritizedSampler(num_lanes * rows, exponent, beta, seed)
    return Replay(plain.ring, plain.store, sampler, n_steps=n_steps, gamma=gamma), sampler


def live(replay, rng, turns, model=None, ends=0.2) -> None:
    """Returns random steps in random lanes, with all kinds of ends and closed lanes."""
    lanes = np.arange(replay.ring.num_lanes)
    for _ in range(turns):
        heads = replay.ring.status[lanes, (replay.ring.added - 1) % replay.ring.rows]
        begun = lanes[(heads != OPEN) | (rng.random(len(lanes)) < 0.05)]
        obs = rng.normal(size=(len(lanes), *replay.store.obs_shape)).astype(np.float32)
        replay.start(begun, obs[begun])
        stepped = lanes[rng.random(len(lanes)) < 0.8]
        reward = rng.normal(size=len(stepped)).astype(np.float32)
        over = rng.random((2, len(stepped))) < ends / 2
        replay.add(stepped, stepped, reward, obs[stepped] + 1, *over)
        closed = lanes[rng.random(len(lanes)) < 0.03]
        replay.close(closed)
        if model is None:
            continue
        for lane in begun:
            model.lanes[lane].start(obs[lane])
        for i, lane in enumerate(stepped):
            outcome = Outcome(int(lane), float(reward[i]), bool(over[0, i]), bool(over[1, i]))
            model.lanes[lane].add(outcome, obs[lane] + 1)
        for lane in closed:
            model.lanes[lane].close()


def with_leaves(
    priorities, exponent=1.0, beta=lambda steps: 1.0, seed=0
) -> tuple[Replay, PrioritizedSampler]:
    """Returns a lane of steps with these priorities. Row i is step i."""
    replay, sampler = make_prioritized(
        rows=len(priorities) + 2, exponent=exponent, beta=beta, seed=seed
    )
    replay.start([0], [0.0])
    for t in range(len(priorities)):
        replay.add([0], [t], [float(t)], [t + 1.0])
    replay.update_priorities(np.arange(len(priorities)), np.array(priorities, np.float32))
    return replay, sampler


def draw(replay, size, steps=0) -> Batch:
    batch = replay.new_batch(size)
    replay.sample(batch, steps)
    return batch
