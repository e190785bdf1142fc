"""QLearner: tabular Q-learning, one table update for each transition."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastdqn.envs import Step
from fastdqn.kernels.jit import kernel
from fastdqn.tabular.discretizer import Discretizer


class Transitions(NamedTuple):
    """M transitions.

    Attributes:
        state: int64[M].
        action: int64[M].
        reward: float64[M].
        terminated: bool[M].
        next_state: int64[M].
        next_mask: bool[M, A], actions allowed at next_state; [0, A] without masks.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    next_state: np.ndarray
    next_mask: np.ndarray


class Report(NamedTuple):
    """Statistics since the last report.

    Attributes:
        loss: Mean squared TD error over the updates.
        q_value: Mean value of the actions taken.
        updates: Number of updates.
        learning_rate: Of the next update.
    """

    loss: float
    q_value: float
    updates: int
    learning_rate: float | None = None


class LastStep:
    """The transitions of the last step; takes the place of a replay and of its staging.

    It remembers the state of each of N environments, so a transition needs its last observation
    only.
    """

    together = 1

    def __init__(self, discretizer: Discretizer, num_lanes: int, num_actions: int):
        self._discretizer = discretizer
        self._state = np.zeros(num_lanes, np.int64)
        self._no_mask = np.ones((0, num_actions), np.bool_)
        self.append(_NOTHING)

    def append(self, step: Step) -> None:
        """Stores copies of a step in place of the previous one."""
        mask = step.next_mask
        next_state = self._states_of(step.next_obs)
        self.device = Transitions(
            self._state[step.lanes], step.action.copy(), step.reward.copy(),
            step.terminated.copy(), next_state, self._no_mask if mask is None else mask.copy(),
        )  # fmt: skip
        self._state[step.lanes] = next_state
        self._state[step.start_lanes] = self._states_of(step.start_obs)

    def newest(self, lanes: np.ndarray) -> None:
        """Returns None: no observations are kept."""

    def _states_of(self, obs: np.ndarray) -> np.ndarray:
        return self._discretizer(obs) if len(obs) else _NOBODY

    def hosts(self, count: int) -> tuple[()]:
        """Returns nothing to fill: the attribute device has all transitions."""
        return ()

    def upload(self, count: int) -> tuple[Transitions]:
        """Returns the transitions; a table needs no device."""
        return (self.device,)


class QLearner:
    """Q[s, a] += rate (r + gamma max Q[s'] - Q[s, a]), one transition after another.

    After termination there is no next state; a time limit does not terminate. Source: Watkins and
    Dayan 1992.

    Args:
        table: [S, A], updated in place.
        gamma: Discount factor.
        rate: Learning rate as a function of the number of updates.
    """

    def __init__(self, table: np.ndarray, gamma: float, rate: Callable[[int], float]):
        self.table, self._gamma, self._rate = table, gamma, rate
        self.updates = self._reported = 0
        self._sums = np.zeros(2)  # of squared errors, and of values of the actions taken

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def update(self, batch: Transitions) -> None:
        """Learns from each transition once, in order."""
        rate = self._rate(self.updates)
        learn(self.table, *batch, self._gamma, rate, self._sums)
        self.updates += len(batch.state)

    def together(self, most: int) -> int:
        """Returns the number of steps to learn from in one call, 1."""
        return 1

    def loss_total(self) -> float:
        return float(self._sums[0])

    def largest_weight(self) -> float:
        """Returns 0: a table changes by TD errors only, which loss_total() sums."""
        return 0.0

    def report(self) -> Report:
        count = self.updates - self._reported
        loss, q_value = self._sums / max(count, 1)
        self._sums.fill(0.0)
        self._reported = self.updates
        return Report(float(loss), float(q_value), count, self._rate(self.updates))


@kernel
def learn(
    table, state, action, reward, terminated, next_state, next_mask, gamma, rate, sums
):  # fmt: skip
    """Updates table [S, A] with transitions [M] in order; see Transitions and QLearner."""
    for i in range(len(state)):
        target = np.float64(reward[i])
        if not terminated[i]:
            best = -np.inf
            for a in range(table.shape[1]):
                if len(next_mask) == 0 or next_mask[i, a]:
                    best = max(best, np.float64(table[next_state[i], a]))
            if best > -np.inf:  # if no action is allowed, the bootstrap value is 0
                target += gamma * best
        value = np.float64(table[state[i], action[i]])
        error = target - value
        table[state[i], action[i]] = value + rate * error
        sums[0] += error * error
        sums[1] += value


_NOBODY = np.empty(0, np.int64)
_NO_NUMBERS = np.empty(0, np.float32)
_NOTHING = Step(
    _NOBODY, _NOBODY, np.empty(0), np.empty(0, np.bool_), np.empty(0, np.bool_), _NO_NUMBERS,
    _NOBODY, _NO_NUMBERS, _NOBODY, np.empty(0), _NOBODY,
)  # fmt: skip
