"""Exploring: random actions in place of greedy ones, each lane by a draw of its own."""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import below, uniform
from fastdqn.state_dict import State, StateError, take_array

# The longest that a random action is repeated: Dabney et al.'s.
LONGEST = 10_000


class Repeats:
    """Random actions that go on, which reach where single ones never do: temporally extended
    epsilon-greedy, Dabney et al. 2021 (arXiv 2006.01782), section 3.

    A draw that explores begins to repeat its action, for a number of steps from a zeta
    distribution: k with a chance of k^-exponent, at most LONGEST. It ends with the episode, and
    where a mask forbids the action.
    """

    def __init__(self, exponent: float, num_lanes: int, num_actions: int):
        weight = np.arange(1, LONGEST + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weight / weight.sum())
        self._left = np.zeros(num_lanes, np.int64)
        self._action, self._num_actions = np.zeros(num_lanes, np.int64), num_actions

    def __call__(self, state, random, mask, lanes, action) -> None:
        """Replace some of action [N] int64, in place, by those that begin or go on.

        random  [N] int64, the action of a draw that explores, else -1; one of those that go on
                already changes nothing
        mask    [N, A] bool, the actions allowed, or None; lanes [N] int64, whose they are
        """
        steps = np.empty(len(action), np.int64)
        _draw_steps(state, self._cumulative, steps)
        left, repeated = self._left[lanes], self._action[lanes]
        begins = (left == 0) & (random >= 0)
        left, repeated = np.where(begins, steps, left), np.where(begins, random, repeated)
        if mask is not None:
            left[~mask[np.arange(len(action)), repeated]] = 0
        goes_on = left > 0
        action[goes_on] = repeated[goes_on]
        self._left[lanes], self._action[lanes] = left - goes_on, repeated

    def follow(self, step: Any) -> None:
        # Not where one ended: by then a call that only resets the lane is still to come, and may
        # begin to repeat its action; and a lane that is replaced or reset tells of no end.
        self._left[step.start_lanes] = 0

    def state(self) -> State:
        return {"left": self._left.copy(), "action": self._action.copy()}

    def load_state(self, state: State) -> None:
        left = take_array(state, "left", self._left)
        action = take_array(state, "action", self._action)
        if (left < 0).any() or (action < 0).any() or (action >= self._num_actions).any():
            raise StateError(f"left is below 0, or action not one of {self._num_actions}")
        self._left[:], self._action[:] = left, action


def explore(state, epsilon, num_actions: int, mask, action) -> None:
    """Replace some of action [N] int64, in place, by random ones.

    epsilon  in [0, 1], one number or [N]; mask [N, A] bool, the actions allowed, or None
    """
    per_lane = np.full(len(action), epsilon, np.float64)
    if mask is None:
        _explore(state, per_lane, num_actions, action)
    else:
        _explore_allowed(state, per_lane, mask, action)


def prepare(state) -> None:
    """Compile before anyone looks at a clock; nothing is drawn."""
    nobody = np.empty(0, np.int64)
    explore(state, 0.0, 1, None, nobody)
    explore(state, 0.0, 1, np.empty((0, 1), np.bool_), nobody)
    _draw_steps(state, np.ones(1), nobody)


@kernel
def _explore(state, epsilon, num_actions, action):
    """Replace action [N] where a lane's draw says so; two draws a lane, used or not."""
    for i in range(len(action)):
        explores = uniform(state) < epsilon[i]
        random_action = below(state, num_actions)
        if explores:
            action[i] = random_action


@kernel
def _explore_allowed(state, epsilon, mask, action):
    """As _explore, among the actions that mask [N, A] allows in the lane, all equally likely."""
    for i in range(len(action)):
        explores = uniform(state) < epsilon[i]
        nth = below(state, max(mask[i].sum(), 1))
        if explores:
            for allowed in range(mask.shape[1]):
                if mask[i, allowed]:
                    if nth == 0:
                        action[i] = allowed
                        break
                    nth -= 1


@kernel
def _draw_steps(state, cumulative, steps):
    """steps [N], 1 and more, each by a draw of its own from cumulative [K] float64 shares."""
    for i in range(len(steps)):
        found = np.searchsorted(cumulative, uniform(state), side="right")
        steps[i] = min(found, len(cumulative) - 1) + 1
