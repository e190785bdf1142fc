"""Sampler: the interface of the objects that select rows for a batch."""

from typing import Protocol

import numpy as np

from fastdqn.replay.ring import Ring
from fastdqn.state_dict import State


class Sampler(Protocol):
    """Selects valid rows of a ring for a batch."""

    wants_priorities: bool

    @property
    def nbytes(self) -> int:
        """Size in bytes of its data about rows."""
        ...

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Updates its data about lanes [M], whose rows have just been added or closed."""
        ...

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """Fills index, int64[B], with absolute ids of valid rows, and weight, float32[B].

        Args:
            ring: The ring.
            n_steps: Length of a window.
            index: Output.
            weight: Output, the importance weights.
            steps: Environment steps so far, for scheduled exponents.

        Raises:
            RuntimeError: No row is valid.
        """
        ...

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        """Sets the priorities [B] of rows index [B]; called only if wants_priorities is True."""
        ...

    def state(self) -> State:
        """Returns a state dict without the ring."""
        ...

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Loads a state dict after the rows of the ring; raises StateError."""
        ...
