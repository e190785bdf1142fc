"""TablePolicy: observations in, actions out, by a table of expected returns."""

import numpy as np

from fastdqn.exploration import explore, prepare
from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import seed_state
from fastdqn.tabular.discretizer import Discretizer


class TablePolicy:
    """Epsilon-greedy over a table, which a learner may share: it is never stale.

    table  [S, A] float32 or float64: expected returns
    """

    def __init__(self, table: np.ndarray, discretizer: Discretizer, seed: int = 0):
        self.table, self.discretizer = table, discretizer
        self.obs_shape, self.num_actions = discretizer.obs_shape, table.shape[1]
        self.rng = seed_state(seed)
        self._all = np.ones((0, self.num_actions), np.bool_)
        prepare(self.rng)

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Greedy actions [N] int64, counted from 0; of equal values the first.

        obs [N, *] as stored; mask [N, A], nonzero for actions allowed, at least one in each row
        Raises ValueError where obs is no such batch.
        """
        action = np.empty(len(obs), np.int64)
        allowed = self._all if mask is None else np.asarray(mask, np.bool_)
        choose(self.table, self.discretizer(obs), allowed, action)
        return action

    def expected(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """What greedy actions are chosen by: expected returns [N, A] f32, -inf where mask [N, A]
        forbids. Raises ValueError where obs [N, *] is no batch as stored."""
        values = self.table[self.discretizer(obs)].astype(np.float32)
        return values if mask is None else np.where(mask, values, np.float32(-np.inf))

    def act(
        self,
        obs: np.ndarray,
        epsilon,
        mask: np.ndarray | None = None,
        _lanes: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions [N] int64: random in each lane with its own probability and its own draw.

        obs [N, *]; epsilon in [0, 1], one number or [N]; mask [N, A] bool, the actions allowed;
        whose observations they are makes no difference
        """
        action = self(obs, mask)
        explore(self.rng, epsilon, self.num_actions, mask, action)
        return action


@kernel
def choose(table, state, mask, action):
    """action [N] the best at state [N]; mask [N, A], or [0, A]: all are allowed."""
    for i in range(len(state)):
        best = -1
        for a in range(table.shape[1]):
            allowed = len(mask) == 0 or mask[i, a]
            if allowed and (best < 0 or table[state[i], a] > table[state[i], best]):
                best = a
        action[i] = max(best, 0)
