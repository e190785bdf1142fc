"""Sampler: what a replay asks of the object that chooses its rows."""

from typing import Protocol

import numpy as np

from fastdqn.replay.ring import Ring
from fastdqn.state_dict import State


class Sampler(Protocol):
    """Chooses which valid rows of a ring make a batch."""

    wants_priorities: bool

    @property
    def nbytes(self) -> int:
        """What it keeps for the rows of its ring."""
        ...

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Take note of lanes [M], whose rows have just been added or closed."""
        ...

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fill index [B] int64 with absolute ids of valid rows, weight [B] float32 with theirs.

        steps  in the environment so far, for what is scheduled by them
        Raises RuntimeError where no row is valid.
        """
        ...

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        """Take the new priorities [B] of rows index [B]; called only where they are wanted."""
        ...

    def state(self) -> State:
        """All that the next draw depends on, beside the ring."""
        ...

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Go on from a state, the ring's rows being there. Raises StateError."""
        ...
