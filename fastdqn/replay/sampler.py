"""Sampler: the interface of the objects that select rows for a batch."""

from abc import abstractmethod
from typing import Protocol

import numpy as np

from fastdqn.replay.ring import Ring
from fastdqn.state_dict import State


class Sampler(Protocol):
    """Selects valid rows of a ring for a batch.

    Subclasses inherit the defaults of a sampler without data about rows. A class or function that
    makes one takes num_slots (rows of the ring), seed, importance_exponent (a function of steps),
    and other arguments by the names of options.

    Attributes:
        wants_priorities: Whether update() is called with the priorities of each batch.
        BYTES_PER_ROW: Memory for each row of the ring, for the memory estimate.
    """

    wants_priorities: bool = False
    BYTES_PER_ROW: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes of its data about rows."""
        return 0

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        """Updates its data about lanes [M], whose rows have just been added or closed."""

    @abstractmethod
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

    @abstractmethod
    def state(self) -> State:
        """Returns a state dict without the ring."""
        ...

    @abstractmethod
    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        """Loads a state dict after the rows of the ring; raises StateError."""
        ...
