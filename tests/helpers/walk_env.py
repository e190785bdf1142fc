"""An environment that draws where it walks."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """Walks right on a strip, which render() shows. Action 0 is never allowed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode=None, drawn=None):
        self.observation_space = spaces.Box(0, 9, (1,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.render_mode, self.drawn = render_mode, drawn

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return self.obs(), {"action_mask": np.array([0, 1, 1])}

    def step(self, action):
        self.place += int(action)
        ended = self.place >= 7
        return self.obs(), float(action), ended, False, {"action_mask": np.array([0, 1, 1])}

    def obs(self):
        return np.array([self.place], np.float32)

    def render(self) -> Any:
        if self.drawn is not None:
            return self.drawn() if callable(self.drawn) else self.drawn
        strip = np.zeros((4, 11, 3), np.uint8)
        strip[:, self.place] = 255
        return strip
