"""An environment whose observations are far from zero."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Far(gymnasium.Env):
    """Observations far from 0. One of three actions gives 1,000. Ends after ten steps."""

    def __init__(self, offset=500.0):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(3)
        self.offset, self.t = offset, 0

    def _observe(self) -> Any:
        return self.np_random.normal([self.offset, -3.0], [20.0, 0.01])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        return self._observe(), 1000.0 * (action == 1), False, self.t == 10, {}
