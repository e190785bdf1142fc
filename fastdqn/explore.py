"""Exploring: random actions in place of greedy ones, each lane by a draw of its own."""

from fastdqn.kernels import kernel
from fastdqn.rng import below, uniform


@kernel
def explore(state, epsilon, num_actions, action):
    """Replace action [N] where a lane's draw says so; two draws a lane, used or not."""
    for i in range(len(action)):
        explores = uniform(state) < epsilon[i]
        random_action = below(state, num_actions)
        if explores:
            action[i] = random_action


@kernel
def explore_allowed(state, epsilon, mask, action):
    """As explore, among the actions that mask [N, A] allows in the lane, all equally likely."""
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
