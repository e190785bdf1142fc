"""UniformSampler: every valid row equally likely, whatever the lanes' fill."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import below, seed_state
from fastdqn.replay.ring import Ring, row_is_valid
from fastdqn.state_dict import State, take_generator

# Rejections before a draw falls back to counting. A filled ring rejects dead and open rows only,
# a few per cent; 64 misses in a row mean that valid rows are rare. Ours, untuned.
_TRIES = 64


class UniformSampler:
    """Draws rows with replacement by rejection, exactly uniform over the valid ones.

    seed  of its own generator; equal seeds and equal rings give equal draws
    """

    wants_priorities = False
    nbytes = 0

    def __init__(self, seed: int = 0):
        self.rng = seed_state(seed)

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """All that is drawn by is in the ring."""

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fill index [B] int64 with absolute row ids, and weight [B] float32 with ones.

        Raises RuntimeError where no row is valid: a full window is needed first.
        """
        if not _draw(self.rng, ring.added, ring.status, n_steps, ring.stack, index):
            raise RuntimeError(
                f"nothing to sample: no complete {n_steps}-step window among {len(ring)} rows"
            )
        weight.fill(1.0)

    def state(self) -> State:
        return {"rng": self.rng.copy()}

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        self.rng[:] = take_generator(state, "rng", self.rng)

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        """Priorities mean nothing to uniform sampling."""


@kernel
def _draw(state, added, status, n_steps, stack, index):
    num_lanes, rows = status.shape
    fill = min(added.max(), rows)  # a lane with fewer rows rejects the ages that it lacks
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
