"""RecentSampler: draws recent rows more often than old ones."""

import math

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import below, seed_state, uniform
from fastdqn.replay.ring import Ring, row_is_valid
from fastdqn.replay.sampler import Sampler
from fastdqn.state_dict import State, take_generator

# Rejections before a draw weighs all valid rows, as in UniformSampler. Ours, untuned.
_TRIES = 64


class RecentSampler(Sampler):
    """Draws valid rows with replacement; probabilities fall exponentially with age.

    The age x of a row is the number of newer rows of its environment, as a fraction of the rows of
    the environment that has most, in [0, 1). Its probability is proportional to recency^-x, so in a
    full buffer the newest row is about recency times as likely as the oldest. The importance
    weights are 1, since the emphasis is intended.

    Wang and Ross 2019 (arXiv 1906.04009) emphasize recent experience too, but shrink the range of
    rows within a series of updates and relax that as training proceeds. This distribution depends
    only on the rows in the buffer.

    Args:
        seed: Seed of its generator; equal seeds and rings give equal draws.
        recency: At least 1. 1 draws the rows that UniformSampler draws. The default is untuned.

    Raises:
        ValueError: recency is below 1 or not finite.
    """

    def __init__(self, seed: int = 0, recency: float = 10.0):
        if not 1.0 <= recency < math.inf:
            raise ValueError(f"recency is {recency}, must be at least 1 and finite")
        self.rng = seed_state(seed)
        self._rate = math.log(recency)

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fills index, int64[B], with absolute row ids, and weight, float32[B], with ones.

        Raises:
            RuntimeError: No row is valid; one complete window is needed first.
        """
        if not _draw(self.rng, self._rate, ring.added, ring.status, n_steps, ring.stack, index):
            raise RuntimeError(
                f"nothing to sample: none of {len(ring)} rows has a complete {n_steps}-step window"
            )
        weight.fill(1.0)

    def state(self) -> State:
        return {"rng": self.rng.copy()}

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        self.rng[:] = take_generator(state, "rng", self.rng)


@kernel
def _draw(state, rate, added, status, n_steps, stack, index):
    num_lanes, rows = status.shape
    fill = min(added.max(), rows)  # shorter lanes reject the rows that they lack
    masses = np.empty(0, np.float64)
    for i in range(len(index)):
        index[i] = -1
        for _ in range(_TRIES if fill > 0 else 0):
            lane = below(state, num_lanes)
            row = added[lane] - 1 - _random_age(state, rate, fill)
            if row_is_valid(status, added, lane, row, n_steps, stack):
                index[i] = row * num_lanes + lane
                break
        if index[i] < 0:
            if len(masses) == 0:
                masses = _masses(rate, fill, added, status, n_steps, stack)
            index[i] = _weighed(state, rate, fill, masses, added, status, n_steps, stack)
            if index[i] < 0:
                return False
    return True


@kernel
def _random_age(state, rate, fill):
    """Returns an age from 0 to fill - 1 with probabilities proportional to exp(-rate age/fill)."""
    x = uniform(state)
    if rate > 0.0:  # the inverse of the distribution function (1 - e^-rate x) / (1 - e^-rate)
        x = -math.log1p(x * math.expm1(-rate)) / rate
    return min(np.int64(x * fill), fill - 1)  # rounding may reach 1


@kernel
def _mass(rate, fill, added, lane, row):
    return math.exp(-rate * ((added[lane] - 1 - row) / fill))


@kernel
def _masses(rate, fill, added, status, n_steps, stack):
    """Returns the sum of the masses of the valid rows of each lane, float64[N]."""
    num_lanes, rows = status.shape
    masses = np.zeros(num_lanes, np.float64)
    for lane in range(num_lanes):
        for row in range(max(0, added[lane] - rows), added[lane]):
            if row_is_valid(status, added, lane, row, n_steps, stack):
                masses[lane] += _mass(rate, fill, added, lane, row)
    return masses


@kernel
def _weighed(state, rate, fill, masses, added, status, n_steps, stack):
    """Returns a valid row in proportion to its mass, or -1 if there is none."""
    num_lanes, rows = status.shape
    left, chosen, found = uniform(state) * masses.sum(), -1, -1
    for lane in range(num_lanes):
        if masses[lane] > 0.0:
            chosen = lane  # the last one if rounding leaves a remainder, and so for rows
            if left < masses[lane]:
                break
            left -= masses[lane]
    if chosen < 0:
        return -1
    for row in range(max(0, added[chosen] - rows), added[chosen]):
        if row_is_valid(status, added, chosen, row, n_steps, stack):
            found = row * num_lanes + chosen
            left -= _mass(rate, fill, added, chosen, row)
            if left < 0.0:
                break
    return found
