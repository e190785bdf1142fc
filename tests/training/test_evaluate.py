"""Evaluation counts every episode once, and the best weights are confirmed on new seeds."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given
from hypothesis import strategies as st

import fastdqn
from fastdqn.envs import EnvStream
from fastdqn.seeding import AUDIT, CONFIRM, EVAL, FINAL, TRAIN, env_seed
from fastdqn.training.best_weights import BestWeights
from fastdqn.training.evaluation import Evaluation, Promises, evaluate


class Scripted(VectorEnv):
    """Reward 1 a step; the length of an episode depends on the seed, or on lane and restart.

    lengths  function of the seed of a lane to the length of its first episode; later ones are 1
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    reward = 1.0

    def __init__(self, num_envs, lengths):
        self.num_envs, self._lengths = num_envs, lengths
        self.single_observation_space = spaces.Box(-1, 1e9, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.seeds, self.actions = [], []

    def reset(self, *, seed=None, options=None):
        assert isinstance(seed, int)
        self.seeds.append(seed)
        self._left = np.array([self._lengths(seed + i) for i in range(self.num_envs)])
        return self._obs(), {}

    def step(self, actions):
        self.actions.append(np.array(actions))
        resetting = self._left == 0
        self._left = np.where(resetting, 1, self._left - 1)
        ended = ~resetting & (self._left == 0)
        reward = np.where(resetting, 0.0, self.reward)
        return self._obs(), reward, ended, np.zeros_like(ended), {}

    def _obs(self):
        return self._left[:, None].astype(np.float32)


def zeros(obs):
    return np.zeros(len(obs), np.int64)


def run(num_envs, lengths, episodes, max_steps=1000, policy=zeros, seed=0):
    envs = Scripted(num_envs, lengths)
    return evaluate(policy, EnvStream(envs), episodes, max_steps, seed), envs


def test_each_environment_runs_one_episode_regardless_of_length():
    result, _ = run(4, lambda seed: [1, 2, 50, 3][seed], episodes=4)
    assert result.returns.tolist() == [1, 2, 50, 3]
    assert result.lengths.tolist() == [1, 2, 50, 3]
    assert result.cut == 0


@given(st.lists(st.integers(1, 12), min_size=1, max_size=17), st.integers(1, 6))
def test_the_episodes_depend_on_seeds_and_not_on_num_envs(lengths, num_envs):
    result, _ = run(num_envs, lambda seed: [*lengths, *[1] * num_envs][seed], len(lengths))
    assert result.lengths.tolist() == lengths
    assert result.returns.tolist() == lengths


def test_returns_are_sums_of_unrounded_rewards():
    """A sum of rewards rounded to float32 is 100.00000149."""

    class Tenths(Scripted):
        reward = 0.1

    stream = EnvStream(Tenths(1, lambda _: 1_000))
    result = evaluate(zeros, stream, 1, 2_000, 0)
    assert result.returns[0] == pytest.approx(100.0, abs=1e-9)
    stream.start(seed=0)
    ended = []
    while not ended:  # an episode of training
        stream.send(np.zeros(1, np.int64))
        ended = stream.recv().returns.tolist()
    assert ended == pytest.approx([100.0], abs=1e-9)


def test_more_episodes_than_environments_run_in_rounds_with_new_seeds():
    result, envs = run(3, lambda seed: seed % 5 + 1, episodes=7, seed=100)
    assert envs.seeds == [100, 103, 106]
    assert result.lengths.tolist() == [1, 2, 3, 4, 5, 1, 2]


def test_fewer_episodes_than_environments_ignore_the_rest():
    result, envs = run(4, lambda seed: [2, 3, 90, 90][seed], episodes=2)
    assert result.lengths.tolist() == [2, 3]
    assert len(envs.actions) == 3


def test_the_step_cap_cuts_an_episode_which_counts_with_its_return():
    result, _ = run(3, lambda seed: [2, 5, 9][seed], episodes=3, max_steps=4)
    assert result.returns.tolist() == [2, 4, 4]
    assert result.lengths.tolist() == [2, 4, 4]
    assert result.cut == 2


def test_an_episode_that_ends_right_at_the_cap_is_not_cut():
    result, _ = run(2, lambda seed: 4, episodes=2, max_steps=4)
    assert (result.returns.tolist(), result.cut) == ([4, 4], 0)


def test_a_cut_episode_does_not_affect_the_next_round():
    result, _ = run(2, lambda seed: [9, 1, 2, 3][seed], episodes=4, max_steps=3)
    assert result.lengths.tolist() == [3, 1, 2, 3]
    assert result.cut == 1


def test_the_policy_sees_the_observations_and_its_actions_are_what_is_done():
    seen = []

    def policy(obs):
        seen.append(obs.copy())
        return (obs[:, 0] > 2).astype(np.int64)

    _, envs = run(2, lambda seed: [3, 2][seed], episodes=2, policy=policy)
    assert [obs[:, 0].tolist() for obs in seen] == [[3, 2], [2, 1], [1, 0]]
    assert [action.tolist() for action in envs.actions] == [[1, 0], [0, 0], [0, 0]]


def test_the_summary_of_an_evaluation_is_plain_numbers():
    summary = Evaluation(np.array([1.0, 3.0]), np.array([10, 20]), 1).summary()
    assert summary == {
        "episodes": 2, "mean_return": 2.0, "std_return": 1.0, "min_return": 1.0, "max_return": 3.0,
        "mean_length": 15.0, "cut_episodes": 1,
    }  # fmt: skip


def test_predicted_values_are_of_first_observations_with_discounted_returns():
    stream = EnvStream(Scripted(2, lambda seed: [3, 1, 2, 9][seed]))
    promises = Promises(lambda obs: np.hstack([10 * obs, 0 * obs]), 0.5)
    found = evaluate(zeros, stream, 3, 10, 0, promises=promises)
    assert found.predicted is not None
    assert found.discounted is not None
    assert found.predicted.tolist() == [30.0, 10.0, 20.0]
    assert found.discounted.tolist() == [1.75, 1.0, 1.5]
    assert found.returns.tolist() == [3.0, 1.0, 2.0]
    told = found.summary()
    assert (told["mean_predicted"], told["mean_discounted"]) == (20.0, 4.25 / 3)


class Notes:
    """A recorder that stores its calls, and evaluations with given means."""

    def __init__(self, means):
        self.means, self.asked, self.recorded = iter(means), [], []

    def evaluate(self, kind, count):
        self.asked.append((kind, count))
        return Evaluation(np.full(3, next(self.means)), np.ones(3, np.int64), 0)

    def evaluation(self, steps, kind, evaluation):
        self.recorded.append((steps, kind, evaluation.returns.mean()))


def best_weights_of(notes, threshold=None):
    return BestWeights(notes.evaluate, notes, threshold, lambda: 12.5)


def test_the_best_weights_are_the_latest_of_equals():
    notes = Notes([5.0, 4.0, 5.0, 6.0])
    best = best_weights_of(notes)
    saved = []
    for steps in (10, 20, 30, 40):
        assert not best.update(steps)
        saved.append(best.is_best)
    assert saved == [True, False, True, True]
    assert (best.best_mean, best.best_steps, best.solved) == (6.0, 40, None)


def test_without_a_threshold_nothing_is_confirmed():
    notes = Notes([1e9])
    best_weights_of(notes).update(10)
    assert notes.asked == [("eval", 0)]


def test_a_return_at_the_threshold_needs_a_second_evaluation():
    notes = Notes([90.0, 100.0, 99.9, 100.0, 101.0])
    best = best_weights_of(notes, 100.0)
    assert [best.update(steps) for steps in (10, 20, 30)] == [False, False, True]
    assert notes.asked == [("eval", 0), ("eval", 1), ("confirm", 1), ("eval", 2), ("confirm", 2)]
    assert best.solved == (100.0, 30, 12.5)


def test_a_solved_run_keeps_the_weights_that_solved_it():
    notes = Notes([300.0, 20.0, 100.0, 100.0])
    best = best_weights_of(notes, 100.0)
    best.update(10)  # a lucky first evaluation: 160 on average, not confirmed
    assert best.update(20)
    assert (best.best_mean, best.best_steps, best.is_best) == (100.0, 20, True)


def test_weights_that_were_evaluated_twice_are_ranked_by_the_pooled_mean():
    notes = Notes([100.0, 20.0, 70.0])
    best = best_weights_of(notes, 100.0)
    best.update(10)
    assert best.best_mean == 60.0
    best.update(20)
    assert (best.best_mean, best.best_steps) == (70.0, 20)


def test_every_evaluation_is_recorded_with_its_kind():
    notes = Notes([100.0, 90.0])
    best_weights_of(notes, 100.0).update(10)
    assert notes.recorded == [(10, "eval", 100.0), (10, "confirm", 90.0)]


MOST_LANES = 1 << 20
purposes = st.sampled_from([TRAIN, EVAL, CONFIRM, FINAL, AUDIT])


@pytest.mark.slow
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), purposes, purposes, st.integers(0, 99))
def test_environment_seeds_of_two_purposes_never_meet(seed, other, one, two, count):
    low, high = env_seed(seed, one, count), env_seed(other, two, 0)
    if one != two:
        assert (low < high) == (one < two)
        assert abs(low - high) >= MOST_LANES
    assert 0 <= low < 2**31 - MOST_LANES


def test_environment_seeds_differ_between_runs_and_between_evaluations():
    seeds = [env_seed(seed, EVAL, count) for seed in range(30) for count in range(30)]
    assert len(set(seeds)) == len(seeds)
    assert env_seed(3, EVAL, 4) == env_seed(3, EVAL, 4)


def test_an_environment_instead_of_a_function_is_one_line():
    with pytest.raises(fastdqn.ConfigError, match=r"^env is of type .*: pass an id.*lambda"):
        fastdqn.evaluate(lambda obs: obs, gymnasium.make("Taxi-v4"))  # pyright: ignore[reportArgumentType]
