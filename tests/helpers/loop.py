"""Small runs of the training loop."""

import gymnasium
import numpy as np
from gymnasium import spaces

from fastdqn import Config
from fastdqn.builders import build
from fastdqn.logging.console import Silent
from fastdqn.training import loop
from helpers.setups import setup_of


def small(tmp_path, **overrides) -> Config:
    return Config(
        total_timesteps=700, num_envs=4, learning_starts=50, batch_size=16, hidden_sizes=(8,),
        buffer_size=500, eval_frequency=0, final_evaluation=True, eval_episodes=2,
        eval_max_steps=100,  # else 27,000 of environments without a limit of their own
        tensorboard=False, log_frequency=70,
        run_dir=str(tmp_path / "run"),
    ).replace(**overrides)  # fmt: skip


def run_loop(config, envs=None):
    session = build.build(setup_of(config, envs), lambda _: Silent(), envs)
    try:
        reason = loop.train(session.run)
    finally:
        session.close()
    return session, reason


class Poisoned(gymnasium.Env):
    """Returns a bad reward at the tenth step of each environment."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, reward=float("nan")):
        self.bad, self.t = reward, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        reward = self.bad if self.t == 10 else 1.0
        return np.zeros(2, np.float32), reward, False, False, {}
