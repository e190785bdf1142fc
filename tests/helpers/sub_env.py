"""An environment that follows every rule, for tests that break one."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fastdqn.envs import EnvStream


class Plain(gymnasium.Env):
    """Observes the step count. Reward 1 per step. Terminates after ten steps."""

    observation_space: spaces.Space = spaces.Box(0.0, 99.0, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    own, closed = 0, False

    def __init__(self, **given):
        self.t = 0
        for name, value in given.items():
            setattr(self, name, value)

    def observe(self) -> Any:
        return np.full(1, self.t, np.float32)

    def reset(self, *, seed=None, options=None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action) -> Any:
        self.t += 1
        return self.observe(), 1.0, self.t == 10, False, {}


def run_steps(stream: EnvStream, count: int) -> list:
    stream.start(0)
    steps = []
    for _ in range(count):
        stream.send(np.zeros(stream.num_ready, np.int64))
        step = stream.recv()
        steps.append(step._replace(reward=step.reward.copy(), returns=step.returns.copy()))
    stream.close()
    return steps
