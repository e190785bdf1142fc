"""Exploring: random actions in place of greedy ones, each lane by a draw of its own."""

import numpy as np

from fastdqn.kernels import kernel
from fastdqn.rng import below, uniform


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
