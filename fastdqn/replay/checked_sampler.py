"""CheckedSampler: rejects invalid rows and weights of a sampler that is not part of the package."""

import numpy as np

from fastdqn.part_error import PartError
from fastdqn.replay.ring import Ring
from fastdqn.replay.sampler import Sampler
from fastdqn.state_dict import State, StateError, copy_plain


class CheckedSampler(Sampler):
    """Calls another sampler and validates each draw, which takes about 10 us.

    Args:
        sampler: The sampler.
        what: Its name, for error messages.

    Attributes:
        sampler: The sampler.
    """

    def __init__(self, sampler: Sampler, what: str):
        self.sampler, self._what = sampler, what
        self.wants_priorities = sampler.wants_priorities

    @property
    def nbytes(self) -> int:
        return self.sampler.nbytes

    def follow(self, ring: Ring, n_steps: int, lanes) -> None:
        self.sampler.follow(ring, n_steps, lanes)

    def draw(
        self, ring: Ring, n_steps: int, index: np.ndarray, weight: np.ndarray, steps: int
    ) -> None:
        """As the sampler. Entries that it does not write are invalid.

        Raises:
            PartError: A row may not be sampled, or a weight is not a finite number >= 0.
        """
        index.fill(-1)
        weight.fill(np.nan)
        self.sampler.draw(ring, n_steps, index, weight, steps)
        valid = ring.is_valid(index, n_steps)
        if not valid.all():
            raise PartError(
                f"{self._what} returned row {index[~valid][0]} at step {steps}, which may not be "
                "sampled: draw() must fill index with rows that ring.is_valid(index, n_steps) "
                "accepts"
            )
        finite = (weight >= 0.0) & (weight < np.inf)  # false for NaN
        if not finite.all():
            raise PartError(
                f"{self._what} returned the weight {weight[~finite][0]} at step {steps}: draw() "
                "must fill weight with finite numbers of at least 0"
            )

    def update(self, ring: Ring, n_steps: int, index: np.ndarray, priority: np.ndarray) -> None:
        self.sampler.update(ring, n_steps, index, priority)

    def state(self) -> State:
        """As the sampler.

        Raises:
            PartError: It is not a state dict.
        """
        state = self.sampler.state()
        if not isinstance(state, dict):
            raise PartError(
                f"{self._what} has the state {state!r:.60}: state() must return a dict, which may "
                "be empty"
            )
        try:
            return copy_plain(state, f"state() of {self._what}")
        except StateError as error:
            raise PartError(str(error)) from None

    def load_state(self, state: State, ring: Ring, n_steps: int) -> None:
        self.sampler.load_state(state, ring, n_steps)
