"""Repeated exploratory actions: length, environment and end."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastdqn.envs import EnvStream
from fastdqn.exploration import LONGEST, Repeats, _draw_steps
from fastdqn.kernels.rng import seed_state
from fastdqn.learning.policy import Policy
from fastdqn.state_dict import StateError
from helpers.learners import CPU, make_learner

LANES, ACTIONS = 5, 3


class SlowRepeats:
    """The slow twin of Repeats, one environment at a time."""

    def __init__(self):
        self.going: dict[int, list[int]] = {}  # environment: action and remaining steps

    def __call__(self, random, steps, mask, lanes, action):
        for i, lane in enumerate(lanes):
            if lane not in self.going and random[i] >= 0:
                self.going[lane] = [random[i], steps[i]]
            if lane not in self.going:
                continue
            repeated, left = self.going.pop(lane)
            if mask[i, repeated]:
                action[i] = repeated
                if left > 1:
                    self.going[lane] = [repeated, left - 1]


@pytest.mark.slow
def test_repeats_equal_the_slow_twin():
    rng, state, twin = np.random.default_rng(0), seed_state(3), seed_state(3)
    fast, slow = Repeats(1.5, LANES, ACTIONS), SlowRepeats()
    went_on = 0
    for turn in range(2_000):
        lanes = np.sort(rng.permutation(LANES)[: rng.integers(1, LANES + 1)])
        random = np.where(rng.random(len(lanes)) < 0.2, rng.integers(ACTIONS, size=len(lanes)), -1)
        mask = rng.random((len(lanes), ACTIONS)) < 0.9
        mask[np.arange(len(lanes)), np.maximum(random, 0)] = True  # what is drawn is allowed
        expected = rng.integers(ACTIONS, size=len(lanes))
        action, greedy, steps = expected.copy(), expected.copy(), np.empty(len(lanes), np.int64)
        fast(state, random, mask if turn % 2 else None, lanes, action)
        _draw_steps(twin, fast._cumulative, steps)
        slow(random, steps, mask if turn % 2 else np.ones_like(mask), lanes, expected)
        np.testing.assert_array_equal(action, expected)
        went_on += ((random < 0) & (action != greedy)).sum()
        begun = lanes[rng.random(len(lanes)) < 0.05]
        fast.follow(SimpleNamespace(start_lanes=begun))
        for lane in begun:
            slow.going.pop(lane, None)
    assert went_on > 500


def test_their_lengths_are_a_zeta_distribution():
    repeats, steps = Repeats(2.0, LANES, ACTIONS), np.empty(200_000, np.int64)
    _draw_steps(seed_state(0), repeats._cumulative, steps)
    assert 1 == steps.min() < 1_000 < steps.max() <= LONGEST
    for k in (1, 2, 3, 10):  # pi^2 / 6 is the sum of all 1/k^2
        assert (steps == k).mean() == pytest.approx(6 / np.pi**2 / k**2, rel=0.05)


def policy_of(repeats: Repeats, seed=0) -> Policy:
    learner = make_learner()
    network = learner.online.eval_alias()
    return Policy(network, learner.value, CPU, (3,), num_actions=2, seed=seed, repeats=repeats)


def test_a_policy_repeats_exploratory_actions_only():
    obs, repeats = np.zeros((LANES, 3), np.float32), Repeats(1.0, LANES, 2)
    policy = policy_of(repeats)
    greedy = policy(obs)
    assert (policy.act(obs, 0.0) == greedy).all()
    first = policy.act(obs, 1.0)
    assert (first != greedy).any()
    long = repeats.state()["left"] > 0
    assert long.any()
    assert (policy.act(obs, 0.0)[long] == first[long]).all()
    assert (policy(obs) == greedy).all()
    repeats.follow(SimpleNamespace(start_lanes=np.arange(LANES)))
    assert (policy.act(obs, 0.0) == greedy).all()


def test_a_state_is_restored_and_an_invalid_one_is_rejected():
    obs = np.zeros((LANES, 3), np.float32)
    repeats, others = Repeats(1.0, LANES, 2), Repeats(1.0, LANES, 2)
    one, other = policy_of(repeats), policy_of(others, seed=9)
    one.act(obs, 1.0)
    other.load_state(one.state())
    others.load_state(repeats.state())
    for _ in range(30):
        np.testing.assert_array_equal(one.act(obs, 0.3), other.act(obs, 0.3))
    for name, wrong in (("left", -1), ("action", 2), ("action", -1)):
        with pytest.raises(StateError, match="left is below 0, or action not one of 2"):
            others.load_state(repeats.state() | {name: np.full(LANES, wrong)})


class Short(gymnasium.Env):
    """Episodes of four steps."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.left = 4
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(3, np.float32), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_episode_start_ends_repeats(mode):
    """Also after a call that only resets, and after a reset of all environments on resume."""
    envs = SyncVectorEnv([Short] * LANES, autoreset_mode=mode)
    stream, repeats, begun = EnvStream(envs), Repeats(1.0, LANES, 2), 0
    policy, step = policy_of(repeats), stream.start(seed=0)
    for turn in range(60):
        repeats.follow(step)
        assert (repeats.state()["left"][step.start_lanes] == 0).all()
        begun += len(step.start_lanes)
        stream.send(policy.act(stream.obs, 1.0, stream.mask, stream.lanes))
        step = stream.recv() if turn != 30 else (stream.recv(), stream.start(seed=1))[1]
    assert begun > 10 * LANES
