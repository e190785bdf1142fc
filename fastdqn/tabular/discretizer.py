"""Discretizer: observations, as they are stored, to the numbers of their states."""

import numpy as np

from fastdqn.kernels import kernel
from fastdqn.tabular.cells import Cells


class Discretizer:
    """Numbers the cells of observations in mixed radix.

    obs_shape  of one observation as ObsReader gives it
    """

    def __init__(self, cells: Cells, obs_shape: tuple[int, ...]):
        self.cells, self.obs_shape = cells, obs_shape
        self._scale = cells.bins / (cells.high - cells.low)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """States [N] int64, from 0 to S - 1. Raises ValueError where obs [N, *] is no such batch.

        A NaN, which no stream delivers, is in the first bin.
        """
        if np.ndim(obs) == 0 or np.shape(obs)[1:] != self.obs_shape:
            raise ValueError(
                f"observations have shape {np.shape(obs)}, {('N', *self.obs_shape)} expected: "
                "obs[None] makes a batch of one, ObsReader(space) reads other spaces than Box"
            )
        state, cells = np.empty(len(obs), np.int64), self.cells
        flat = np.ascontiguousarray(obs).reshape(len(obs), -1)
        number_cells(flat, cells.column, cells.width, cells.bins, cells.low, self._scale, state)
        return state


@kernel
def number_cells(obs, column, width, bins, low, scale, state):
    """state [N] int64 of obs [N, D]; the digits as in Cells, scale [V] bins in a unit."""
    for i in range(len(state)):
        number = 0
        for v in range(len(column)):
            first, digit = column[v], 0
            if width[v] > 1:
                while digit < width[v] - 1 and not obs[i, first + digit]:
                    digit += 1
            else:
                place = (np.float64(obs[i, first]) - low[v]) * scale[v]
                if place >= bins[v]:
                    digit = bins[v] - 1
                elif place > 0.0:
                    digit = np.int64(place)
            number = number * bins[v] + digit
        state[i] = number
