"""Slow twins of prioritized sampling: a tree that is a list, and leaves that are a dict of rows."""

import math
from collections.abc import Callable, Iterable

import numpy as np
from oracles import make_replay

from fastdqn.replay import PrioritizedSampler, Replay

LEAST_PRIORITY = 1e-6


def order_of_tree(num_slots: int) -> np.ndarray:
    """Slots from left to right: those whose leaves are in the lowest level stand before others."""
    lowest = 1 << (2 * num_slots - 1).bit_length() - 1
    return np.roll(np.arange(num_slots), -(lowest - num_slots))


class TwinTree:
    """The leaves alone; every question is answered from all of them."""

    def __init__(self, num_slots: int):
        self.leaves = np.zeros(num_slots)
        self.order = order_of_tree(num_slots)

    def set(self, slots, leaves) -> None:
        for slot, leaf in zip(slots, leaves, strict=True):
            self.leaves[slot] = leaf

    def find(self, targets) -> np.ndarray:
        return self.order[np.searchsorted(np.cumsum(self.leaves[self.order]), targets, "right")]


class PriorityModel:
    """The leaf of every valid row by its absolute id; told after each call to the replay."""

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
        """(1 / (M P(i)))^beta for M valid rows, over the largest of them: as the paper has it."""
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
) -> tuple[Replay, PrioritizedSampler]:
    plain = make_replay(num_lanes, rows, n_steps, gamma, stack, obs_shape)
    sampler = PrioritizedSampler(num_lanes * rows, exponent, beta, seed)
    return Replay(plain.ring, plain.store, sampler, n_steps=n_steps, gamma=gamma), sampler
