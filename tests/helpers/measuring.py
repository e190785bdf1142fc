"""A fake clock, and components that take known times."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.bench.repeats import Effort
from fastdqn.builders.preflight import preview
from fastdqn.config.presets import PRESETS
from fastdqn.envs import EnvFacts
from fastdqn.learning.learner import Learner
from fastdqn.learning.policy import Policy
from fastdqn.replay import Replay

STEP_SECONDS, UPDATE_SECONDS, ACT_SECONDS, SAMPLE_SECONDS = 0.004, 0.003, 0.0007, 0.0002


EFFORT = Effort(0.5, 3, 0.1)


LANES = 8


class FakeClock:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


class Slow(VectorEnv):
    """Each call takes STEP_SECONDS of the fake clock. Every tenth call only resets."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, clock: FakeClock, num_envs: int = LANES):
        self.clock, self.num_envs, self.calls = clock, num_envs, 0
        self.single_observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.calls = 0
        return np.zeros((self.num_envs, 4), np.float32), {}

    def step(self, actions):
        self.clock.spend(STEP_SECONDS)
        self.calls += 1
        over = np.full(self.num_envs, self.calls % 10 == 9)
        obs = np.zeros((self.num_envs, 4), np.float32)
        return obs, np.ones(self.num_envs), np.zeros(self.num_envs, bool), over, {}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def slow_parts(monkeypatch, clock):
    """Makes updates, policy calls and sampling take known times of the fake clock."""

    def slowed(owner, name, seconds):
        original = getattr(owner, name)

        def method(*args, **kwargs):
            clock.spend(seconds)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    slowed(Learner, "update", UPDATE_SECONDS)
    slowed(Policy, "act", ACT_SECONDS)
    slowed(Replay, "sample", SAMPLE_SECONDS)


def config(**changes):
    return preview(
        PRESETS["cartpole"].replace(
            num_envs=LANES, batch_size=16, train_frequency=4, hidden_sizes=(8,), buffer_size=5_000,
            learning_starts=100, **changes,
        )
    ).config  # fmt: skip


FACTS = EnvFacts((4,), np.dtype(np.float32), 1.0, 2, 0)
