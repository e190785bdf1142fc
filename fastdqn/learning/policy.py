"""Policy: observations in, actions out; one exploration draw per lane."""

import numpy as np
import torch
from torch import nn

from fastdqn.kernels import kernel
from fastdqn.learning.value import Value
from fastdqn.rng import below, seed_state, uniform


class Policy:
    """Epsilon-greedy over a network's expected returns.

    network  in eval mode; shares memory with the learner's weights, so it is never stale
    value    what the network's output means
    """

    def __init__(self, network: nn.Module, value: Value, device: torch.device, num_actions: int,
                 seed: int = 0):  # fmt: skip
        self.network, self.value, self.device = network, value, device
        self.num_actions = num_actions
        self.state = seed_state(seed)
        _explore(self.state, np.empty(0), num_actions, np.empty(0, np.int64))

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Greedy actions [N] int64, counted from 0, for obs [N, *] as stored."""
        with torch.inference_mode():
            # torch takes neither read-only arrays nor negative strides.
            obs = np.require(obs, requirements=("C", "W"))
            device_obs = torch.from_numpy(obs).to(self.device)
            values = self.value.expected(self.network(device_obs))
            return values.argmax(1).cpu().numpy()

    def act(self, obs: np.ndarray, epsilon) -> np.ndarray:
        """Actions [N] int64: random in each lane with its own probability and its own draw.

        obs [N, *]; epsilon in [0, 1], one number or [N]
        """
        action = self(obs)
        per_lane = np.empty(len(action))
        per_lane[:] = epsilon
        _explore(self.state, per_lane, self.num_actions, action)
        return action


@kernel
def _explore(state, epsilon, num_actions, action):
    """Replace action [N] where a lane's draw says so; two draws a lane, used or not."""
    for i in range(len(action)):
        explores = uniform(state) < epsilon[i]
        random_action = below(state, num_actions)
        if explores:
            action[i] = random_action
