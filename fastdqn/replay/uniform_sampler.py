"""UniformSampler: draws all valid rows with equal probability."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import below, seed_state
from fastdqn.replay.ring import Ring, row_is_valid
from fastdqn.replay.sampler import Sampler
from fastdqn.state_dict import State, take_generator

# Rejections before a draw counts the valid rows. A full ring rejects a few percent of draws (dead
# and open rows), so 64 in sequence mean that valid rows are rare. Ours, untuned.
_TRIES = 64


class UniformSampler(Sampler):
    """Draws valid rows with replacement, exactly uniformly, by rejection sampling.

    Args:
        seed: Seed of its generator; equal seeds and rings give equal draws.
    """

    def __init__(self, seed: int = 0):
        self.rng = seed_state(seed)

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fills index, int64[B], with absolute row ids, and weight, float32[B], with ones.

        Raises:
            RuntimeError: No row is valid; one complete window is needed first.
        """
        if not _draw(self.rng, ring.added, ring.status, n_steps, ring.stack, index):
            raise RuntimeError(
                f"nothing to sample: none of {len(ring)} rows has a complete {n_steps}-step window"
            )
        weight.fill(1.0)

    def state(self) -> State:
        return {"rng": self.rng.copy()}

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        self.rng[:] = take_generator(state, "rng", self.rng)


@kernel
def _draw(state, added, status, n_steps, stack, index):
    num_lanes, rows = status.shape
    fill = min(added.max(), rows)  # shorter lanes reject the rows that they lack
    counts = np.empty(0, np.int64)
    for i in range(len(index)):
        index[i] = -1
        for _ in range(_TRIES if fill > 0 else 0):
            lane = below(state, num_lanes)
            row = added[lane] - 1 - below(state, fill)
            if row_is_valid(status, added, lane, row, n_steps, stack):
                index[i] = row * num_lanes + lane
                break
        if index[i] < 0:
            if len(counts) == 0:
                counts = _count_valid(added, status, n_steps, stack)
            total = counts.sum()
            if total == 0:
                return False
            index[i] = _nth_valid(below(state, total), counts, added, status, n_steps, stack)
    return True


@kernel
def _count_valid(added, status, n_steps, stack):
    num_lanes, rows = status.shape
    counts = np.zeros(num_lanes, np.int64)
    for lane in range(num_lanes):
        for row in range(max(0, added[lane] - rows), added[lane]):
            counts[lane] += row_is_valid(status, added, lane, row, n_steps, stack)
    return counts


@kernel
def _nth_valid(nth, counts, added, status, n_steps, stack):
    num_lanes, rows = status.shape
    lane = 0
    while nth >= counts[lane]:
        nth -= counts[lane]
        lane += 1
    for row in range(max(0, added[lane] - rows), added[lane]):
        if row_is_valid(status, added, lane, row, n_steps, stack):
            if nth == 0:
                return row * num_lanes + lane
            nth -= 1
    return -1
