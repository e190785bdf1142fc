"""Q-learning: each transition of a delivery moves one number of the table."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastdqn.envs import Step
from fastdqn.kernels.jit import kernel
from fastdqn.tabular.discretizer import Discretizer


class Transitions(NamedTuple):
    """M transitions: state, action, next_state [M] int64 · reward [M] float64 · terminated [M]
    bool · next_mask [M, A] bool, [0, A] without masks: the actions allowed at next_state."""

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    next_state: np.ndarray
    next_mask: np.ndarray


class Report(NamedTuple):
    """What happened since the last report.

    loss  mean squared error over its updates; q_value  mean over them, at the actions taken
    """

    loss: float
    q_value: float
    updates: int


class LastDelivery:
    """The transitions of the last delivery, in place of a replay: each is handed out once.

    It remembers the state of each of N lanes, so that a transition needs no observation but its
    last one.
    """

    together = 1

    def __init__(self, discretizer: Discretizer, num_lanes: int, num_actions: int):
        self._discretizer = discretizer
        self._state = np.zeros(num_lanes, np.int64)
        self._no_mask = np.ones((0, num_actions), np.bool_)
        self.append(_NOTHING)

    def append(self, step: Step) -> None:
        """Take a delivery; the one before is forgotten. What is kept is copied."""
        mask = step.next_mask
        next_state = self._numbered(step.next_obs)
        self.device = Transitions(
            self._state[step.lanes], step.action.copy(), step.reward.copy(),
            step.terminated.copy(), next_state, self._no_mask if mask is None else mask.copy(),
        )  # fmt: skip
        self._state[step.lanes] = next_state
        self._state[step.start_lanes] = self._numbered(step.start_obs)

    def _numbered(self, obs: np.ndarray) -> np.ndarray:
        return self._discretizer(obs) if len(obs) else _NOBODY

    def hosts(self, count: int) -> tuple[()]:
        """Nothing is drawn: device holds all there is."""
        return ()

    def upload(self, count: int) -> tuple[Transitions]:
        """A table needs no device."""
        return (self.device,)


class QLearner:
    """Q[s, a] += rate (r + gamma max Q[s'] - Q[s, a]), transition after transition.

    Watkins and Dayan 1992. After termination there is no next state; a time limit is none.
    table  [S, A], changed in place
    rate   share of the error that is corrected, from the number of transitions learned so far
    """

    def __init__(self, table: np.ndarray, gamma: float, rate: Callable[[int], float]):
        self.table, self._gamma, self._rate = table, gamma, rate
        self.updates = self._reported = 0
        self._sums = np.zeros(2)  # of squared errors, and of values at the actions taken

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def update(self, batch: Transitions) -> None:
        """Learn from each transition once, lane after lane."""
        rate = self._rate(self.updates)
        learn(self.table, *batch, self._gamma, rate, self._sums)
        self.updates += len(batch.state)

    def together(self, most: int) -> int:
        """Deliveries that are learned from at once."""
        return 1

    def loss_total(self) -> float:
        return float(self._sums[0])

    def largest_weight(self) -> float:
        """Not looked for in a table: it changes by errors alone, which loss_total() adds up."""
        return 0.0

    def report(self) -> Report:
        count = self.updates - self._reported
        loss, q_value = self._sums / max(count, 1)
        self._sums.fill(0.0)
        self._reported = self.updates
        return Report(float(loss), float(q_value), count)


@kernel
def learn(
    table, state, action, reward, terminated, next_state, next_mask, gamma, rate, sums
):  # fmt: skip
    """Update table [S, A] by transitions [M] in their order; see Transitions and QLearner."""
    for i in range(len(state)):
        target = np.float64(reward[i])
        if not terminated[i]:
            best = -np.inf
            for a in range(table.shape[1]):
                if len(next_mask) == 0 or next_mask[i, a]:
                    best = max(best, np.float64(table[next_state[i], a]))
            if best > -np.inf:  # where nothing is allowed, nothing more is earned
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
