"""Epsilon-greedy exploration, with repeated random actions as an option (ez-greedy)."""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.kernels.rng import below, uniform
from fastdqn.state_dict import State, StateError, take_array

# Maximum number of repeats of a random action, as in Dabney et al. 2021.
LONGEST = 10_000


class Repeats:
    """Temporally extended epsilon-greedy exploration (ez-greedy).

    A random action is repeated for k steps, k drawn from a zeta distribution: its probability is
    proportional to k^-exponent, up to LONGEST. Repeating stops at the end of the episode, and when
    a mask forbids the action. Dabney et al. 2021 (arXiv 2006.01782), section 3.
    """

    def __init__(self, exponent: float, num_lanes: int, num_actions: int):
        weight = np.arange(1, LONGEST + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weight / weight.sum())
        self._left = np.zeros(num_lanes, np.int64)
        self._action, self._num_actions = np.zeros(num_lanes, np.int64), num_actions

    def __call__(self, state, random, mask, lanes, action) -> None:
        """Overwrites actions in place with repeated random ones.

        Args:
            state: State of the random generator.
            random: int64[N], the random action where exploration starts, else -1. Ignored where
                a repeat is in progress.
            mask: bool[N, A], the allowed actions, or None.
            lanes: int64[N], the lane of each action.
            action: int64[N], overwritten in place.
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
        # At the start of an episode, not at its end: the policy may be called once more in between,
        # for a step that only resets, and a restarted environment reports no end.
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
    """Overwrites actions in place with random ones, with probability epsilon.

    Args:
        state: State of the random generator.
        epsilon: In [0, 1], one number or float64[N].
        num_actions: Number of actions A.
        mask: bool[N, A], the allowed actions, or None.
        action: int64[N], overwritten in place.
    """
    per_lane = np.full(len(action), epsilon, np.float64)
    if mask is None:
        _explore(state, per_lane, num_actions, action)
    else:
        _explore_allowed(state, per_lane, mask, action)


def prepare(state) -> None:
    """Compiles the kernels without drawing a random number."""
    nobody = np.empty(0, np.int64)
    explore(state, 0.0, 1, None, nobody)
    explore(state, 0.0, 1, np.empty((0, 1), np.bool_), nobody)
    _draw_steps(state, np.ones(1), nobody)


@kernel
def _explore(state, epsilon, num_actions, action):
    """Overwrites actions with probability epsilon. Always draws two numbers per lane."""
    for i in range(len(action)):
        explores = uniform(state) < epsilon[i]
        random_action = below(state, num_actions)
        if explores:
            action[i] = random_action


@kernel
def _explore_allowed(state, epsilon, mask, action):
    """As _explore, uniformly among the actions that mask bool[N, A] allows."""
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
    """Draws steps [N], each at least 1, from cumulative probabilities float64[K]."""
    for i in range(len(steps)):
        found = np.searchsorted(cumulative, uniform(state), side="right")
        steps[i] = min(found, len(cumulative) - 1) + 1
