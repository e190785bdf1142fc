"""Probe environments whose Q-values are known in closed form: the whole path must find them."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn import Config, build
from fastdqn.engine import local


class Probe(gymnasium.Env):
    """Episodes of `length` steps; reward(t, obs, action) and the observation are the subclass's."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)
    length = 1
    truncates = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        return self.observe(), {}

    def step(self, action):
        reward = self.reward(action)
        self.t += 1
        over = self.t == self.length
        return (
            self.observe(),
            reward,
            over and not self.truncates,
            over and self.truncates,
            {},
        )

    def observe(self):
        return np.array([0.0], np.float32)

    def reward(self, action):
        return 1.0


class ObservationReward(Probe):
    def observe(self):
        return np.array([self.sign], np.float32)

    def reward(self, action):
        return self.sign


class Discounted(Probe):
    """Two steps, the reward comes with the second; the observation is the step."""

    length = 2

    def observe(self):
        return np.array([float(self.t)], np.float32)

    def reward(self, action):
        return float(self.t)


class ActionReward(Probe):
    def reward(self, action):
        return 1.0 if action == 1 else -1.0


class ObservationAction(Probe):
    def observe(self):
        return np.array([self.sign], np.float32)

    def reward(self, action):
        return self.sign if action == 1 else -self.sign


class Truncated(Probe):
    """Reward 1 for ever, cut every third step: Q is 1 / (1 - gamma), not 1 to 3."""

    length = 3
    truncates = True


def train_probe(probe, tmp_path, mode=AutoresetMode.NEXT_STEP, **overrides):
    """Q [S, 2] at observations -1, 0, 1 after a short run."""
    envs = SyncVectorEnv([probe] * 4, autoreset_mode=mode)
    config = Config(
        num_envs=4, total_timesteps=2_500, learning_starts=100, train_frequency=2,  # pyright: ignore
        learning_rate=1e-2, hidden_sizes=(32,), target_network_frequency=20, gamma=0.5,
        batch_size=64, buffer_size=2_000, exploration_final_eps=1.0, eval_frequency=0,
        run_dir=str(tmp_path / "run"), tensorboard=False,
    ).replace(**overrides)  # fmt: skip
    from fastdqn.record.console import Silent

    session = build.build(config, lambda _: Silent(), envs)
    local.train(session.run)
    session.close()
    envs.close()
    observations = torch.tensor([[-1.0], [0.0], [1.0]])
    with torch.no_grad():
        return session.run.learner.online.module(observations).numpy()


VARIANTS = [
    pytest.param({}, id="d3qn"),
    pytest.param({"double": False, "dueling": False}, id="plain"),
    pytest.param({"n_steps": 3, "tau": 0.05, "target_network_frequency": 2}, id="3-step-polyak"),
    pytest.param({"loss": "huber", "max_grad_norm": 1.0}, id="huber-clipped"),
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_constant_reward_is_the_value(tmp_path, overrides):
    assert train_probe(Probe, tmp_path, **overrides)[1] == pytest.approx([1.0, 1.0], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_value_depends_on_the_observation(tmp_path, overrides):
    q = train_probe(ObservationReward, tmp_path, **overrides)
    np.testing.assert_allclose(q[[0, 2]], [[-1.0, -1.0], [1.0, 1.0]], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_later_rewards_are_discounted_once_a_step(tmp_path, overrides):
    q = train_probe(Discounted, tmp_path, **overrides)
    np.testing.assert_allclose(q[[1, 2]], [[0.5, 0.5], [1.0, 1.0]], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_value_depends_on_the_action(tmp_path, overrides):
    q = train_probe(ActionReward, tmp_path, **overrides)
    np.testing.assert_allclose(q[1], [-1.0, 1.0], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_value_depends_on_observation_and_action(tmp_path, overrides):
    q = train_probe(ObservationAction, tmp_path, **overrides)
    np.testing.assert_allclose(q[[0, 2]], [[1.0, -1.0], [-1.0, 1.0]], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("n_steps", [1, 3, 5])
def test_a_time_limit_is_not_worth_zero(tmp_path, mode, n_steps):
    q = train_probe(Truncated, tmp_path, mode, n_steps=n_steps)
    assert q[1] == pytest.approx([2.0, 2.0], abs=0.01)


@pytest.mark.slow
def test_cartpole_is_learned_and_the_saved_policy_is_the_one_evaluated(tmp_path):
    run = fastdqn.train("cartpole", seed=1, run_dir=str(tmp_path / "run"))
    assert run.summary["solved"]["threshold"] == 475.0
    policy = fastdqn.load_policy(run.folder)
    assert fastdqn.evaluate(policy, "CartPole-v1", episodes=100).returns.mean() >= 450.0
