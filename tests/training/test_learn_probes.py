"""Probe environments with known Q-values, learned by the whole program."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn import Config
from fastdqn.builders import build
from fastdqn.learning.random_inputs import Draw
from fastdqn.logging.console import Silent
from fastdqn.training import loop
from helpers.cost import slow_but
from helpers.setups import setup_of


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


NEXT_STEP = AutoresetMode.NEXT_STEP
OBSERVATIONS = torch.tensor([[-1.0], [0.0], [1.0]])


def train_probe(probe, tmp_path, mode=AutoresetMode.NEXT_STEP, **overrides):
    """Q [S, 2] at observations -1, 0, 1 after a short run."""
    learner = trained(probe, tmp_path, mode, **overrides)
    with torch.no_grad():
        return learner.value.expected(learner.online.module(OBSERVATIONS)).numpy()


def trained(probe, tmp_path, mode=AutoresetMode.NEXT_STEP, **overrides):
    """The learner after a short run."""
    envs = SyncVectorEnv([probe] * 4, autoreset_mode=mode)
    config = Config(
        num_envs=4, total_timesteps=2_500, learning_starts=100, train_frequency=2,  # pyright: ignore
        learning_rate=1e-2, hidden_sizes=(32,), target_network_frequency=20, gamma=0.5,
        batch_size=64, buffer_size=2_000, exploration_final_eps=1.0, eval_frequency=0,
        run_dir=str(tmp_path / "run"), tensorboard=False,
    ).replace(**overrides)  # fmt: skip
    session = build.build(setup_of(config, envs), lambda _: Silent(), envs)
    loop.train(session.run)
    session.close()
    envs.close()
    return session.run.learner


# If one of the last two fails, an easier probe shows the reason.
VARIANTS = [
    pytest.param({}, id="d3qn"),
    pytest.param({"double": False, "dueling": False}, id="plain"),
    pytest.param({"n_steps": 3, "tau": 0.05, "target_network_frequency": 2}, id="3-step-polyak"),
    pytest.param({"loss": "huber", "max_grad_norm": 1.0}, id="huber-clipped"),
    *(
        pytest.param(
            {"value": value, "v_min": -2.0, "v_max": 2.0, "prioritized": True, "n_steps": 3},
            id=f"{value}-prioritized-3-step",
        )
        for value in ("scalar", "categorical", "quantile", "implicit-quantile")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS[:1])
def test_constant_reward_is_the_value(tmp_path, overrides):
    assert train_probe(Probe, tmp_path, **overrides)[1] == pytest.approx([1.0, 1.0], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS[:1])
def test_value_depends_on_the_observation(tmp_path, overrides):
    q = train_probe(ObservationReward, tmp_path, **overrides)
    np.testing.assert_allclose(q[[0, 2]], [[-1.0, -1.0], [1.0, 1.0]], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [VARIANTS[i] for i in (0, 2, 5, 7)])
def test_later_rewards_are_discounted_once_a_step(tmp_path, overrides):
    q = train_probe(Discounted, tmp_path, **overrides)
    np.testing.assert_allclose(q[[1, 2]], [[0.5, 0.5], [1.0, 1.0]], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS[:1])
def test_value_depends_on_the_action(tmp_path, overrides):
    q = train_probe(ActionReward, tmp_path, **overrides)
    np.testing.assert_allclose(q[1], [-1.0, 1.0], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS)
def test_value_depends_on_observation_and_action(tmp_path, overrides):
    q = train_probe(ObservationAction, tmp_path, **overrides)
    np.testing.assert_allclose(q[[0, 2]], [[1.0, -1.0], [-1.0, 1.0]], atol=0.01)


@pytest.mark.parametrize(
    ("mode", "n_steps"),
    slow_but([*((mode, 3) for mode in AutoresetMode), *((NEXT_STEP, n) for n in (1, 5))], 0),
)
def test_a_time_limit_is_not_worth_zero(tmp_path, mode, n_steps):
    q = train_probe(Truncated, tmp_path, mode, n_steps=n_steps)
    assert q[1] == pytest.approx([2.0, 2.0], abs=0.01)


VALUES = ["scalar", "categorical", "quantile", "implicit-quantile"]


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_no_value_takes_a_time_limit_for_an_end(tmp_path, value):
    q = train_probe(Truncated, tmp_path, value=value, v_min=-1.0, v_max=4.0, prioritized=True)
    assert q[1] == pytest.approx([2.0, 2.0], abs=0.02)


class Coin(Probe):
    """Rewards of 5 three times in four, else -5; the observation is the step."""

    def observe(self):
        return np.array([float(self.t)], np.float32)

    def reward(self, action):
        return 5.0 if self.np_random.random() < 0.75 else -5.0


class TwoCoins(Coin):
    length = 2


PRIORITIZED = {"prioritized": True, "n_steps": 3}


@pytest.mark.slow
def test_atoms_learn_both_sides_of_a_coin_and_their_chances(tmp_path):
    learner = trained(
        Coin, tmp_path, value="categorical", v_min=-10.0, v_max=10.0, num_atoms=21, **PRIORITIZED
    )
    probs = learner.online.module(OBSERVATIONS)[1].softmax(0).detach()  # [21, 2]
    np.testing.assert_allclose(probs[[5, 15]], [[0.25, 0.25], [0.75, 0.75]], atol=0.1)
    assert probs[[5, 15]].sum(0).min() > 0.98


@pytest.mark.slow
def test_atoms_learn_the_sum_of_two_coins_through_the_next_state(tmp_path):
    """One step at a time, discounted by a half: -7.5, -2.5, 2.5, 7.5 at 1, 3, 3, 9 sixteenths."""
    learner = trained(TwoCoins, tmp_path, value="categorical", num_atoms=9, prioritized=True)
    probs = learner.online.module(OBSERVATIONS)[1].softmax(0).detach()  # [9, 2]
    expected = np.array([1, 3, 3, 9])[:, None] / 16 * np.ones(2)
    np.testing.assert_allclose(probs[[1, 3, 5, 7]], expected, atol=0.06)


def coin_quantile(fraction: float) -> float:
    """Where the quantile Huber loss is least: near a side, at the distance d <= 1 from it at
    which 3/4 fraction and 1/4 (1 - fraction) are in balance, one of them times d."""
    odds = 3 * fraction / (1 - fraction)
    return 5 - 1 / odds if odds > 1 else -5 + odds


@pytest.mark.slow
def test_quantiles_learn_both_sides_of_a_coin(tmp_path):
    learner = trained(Coin, tmp_path, value="quantile", num_quantiles=8, **PRIORITIZED)
    quantiles = learner.online.module(OBSERVATIONS)[1].detach()  # [8, 2]
    expected = [coin_quantile((i + 0.5) / 8) for i in range(8)]
    np.testing.assert_allclose(quantiles[:, 0], expected, atol=0.4)
    np.testing.assert_allclose(quantiles[:, 1], expected, atol=0.4)


@pytest.mark.slow
def test_implicit_quantiles_learn_both_sides_of_a_coin_at_any_fraction(tmp_path):
    learner = trained(Coin, tmp_path, value="implicit-quantile", **PRIORITIZED)
    fractions = torch.tensor([[0.05, 0.1, 0.4, 0.6, 0.8, 0.95]])
    quantiles = learner.online.module(OBSERVATIONS[1:2], Draw(None, fractions))[0].detach()
    expected = [coin_quantile(fraction) for fraction in fractions[0].tolist()]
    np.testing.assert_allclose(quantiles[:, 0], expected, atol=0.5)


MUNCHAUSEN = {"munchausen": True, "munchausen_temperature": 0.5, "munchausen_floor": -9.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "floor", "worse"),
    [("scalar", -9.0, -3.0), ("quantile", -1.0, -1.5), ("implicit-quantile", -9.0, -3.0)],
)
def test_munchausen_widens_the_gap_between_actions_until_the_floor(tmp_path, value, floor, worse):
    """q = r + 0.5 t log pi: a gap of 2 between rewards is one of 2 / (1 - 0.5) between values;
    cut off at -1, the worse action has -1 + 0.5 * -1. The better one loses nearly nothing."""
    q = train_probe(
        ActionReward,
        tmp_path,
        value=value,
        munchausen_alpha=0.5,
        **MUNCHAUSEN | {"munchausen_floor": floor},
    )
    np.testing.assert_allclose(q[1], [worse, 1.0], atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["scalar", "quantile"])
def test_munchausen_finds_its_soft_fixed_point(tmp_path, value):
    """Actions that are worth the same: q = 1 + a t log(1/2) + g (q + t log 2), so that
    q = (1 + t log 2 (g - a)) / (1 - g), here with t = g = 1/2, a = 1/4."""
    q = train_probe(Truncated, tmp_path, value=value, munchausen_alpha=0.25, **MUNCHAUSEN)
    np.testing.assert_allclose(q[1], 2 * (1 + 0.125 * np.log(2)), atol=0.03)


@pytest.mark.slow
def test_cartpole_is_learned_and_the_saved_policy_is_the_one_evaluated(tmp_path):
    run = fastdqn.train("cartpole", seed=1, run_dir=str(tmp_path / "run"))
    assert run.summary["solved"]["threshold"] == 475.0
    policy = fastdqn.load_policy(run.folder)
    assert fastdqn.evaluate(policy, "CartPole-v1", episodes=100).returns.mean() >= 450.0
