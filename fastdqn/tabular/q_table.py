"""TablePolicy: selects actions from a table of expected returns."""

import numpy as np

from fastdqn.exploration import explore, prepare
from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import seed_state
from fastdqn.tabular.discretizer import Discretizer


class TablePolicy:
    """Epsilon-greedy policy over a table, which it may share with a learner.

    Args:
        table: float32 or float64 [S, A], expected returns.
        discretizer: Maps observations to states.
        seed: Seed of exploration.
    """

    def __init__(self, table: np.ndarray, discretizer: Discretizer, seed: int = 0):
        self.table, self.discretizer = table, discretizer
        self.obs_shape, self.num_actions = discretizer.obs_shape, table.shape[1]
        self.rng = seed_state(seed)
        self._all = np.ones((0, self.num_actions), np.bool_)
        prepare(self.rng)

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Returns int64[N] greedy actions, counted from 0; of equal values the first.

        Args:
            obs: [N, *], as stored.
            mask: [N, A], nonzero for allowed actions, at least one in each row.

        Raises:
            ValueError: obs is not a batch of observations.
        """
        action = np.empty(len(obs), np.int64)
        allowed = self._all if mask is None else np.asarray(mask, np.bool_)
        greedy_actions(self.table, self.discretizer(obs), allowed, action)
        return action

    def expected(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Returns float32[N, A], the expected returns, -inf where mask [N, A] forbids an action.

        Raises:
            ValueError: obs is not a batch of observations.
        """
        values = self.table[self.discretizer(obs)].astype(np.float32)
        return values if mask is None else np.where(mask, values, np.float32(-np.inf))

    def act(
        self,
        obs: np.ndarray,
        epsilon,
        mask: np.ndarray | None = None,
        _lanes: np.ndarray | None = None,
        _slots: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns int64[N] actions, each random with its own probability.

        Args:
            obs: [N, *], as stored.
            epsilon: In [0, 1], one number or [N].
            mask: bool[N, A], the allowed actions.
        """
        action = self(obs, mask)
        explore(self.rng, epsilon, self.num_actions, mask, action)
        return action


@kernel
def greedy_actions(table, state, mask, action):
    """Writes the best allowed action at state [N] to action [N]; mask is [N, A] or [0, A]."""
    for i in range(len(state)):
        best = -1
        for a in range(table.shape[1]):
            allowed = len(mask) == 0 or mask[i, a]
            if allowed and (best < 0 or table[state[i], a] > table[state[i], best]):
                best = a
        action[i] = max(best, 0)
