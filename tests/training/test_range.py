"""RangeWatch reports returns beyond the atoms once, in the learner's scale."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import fastdqn
from fastdqn.envs import Step
from fastdqn.training.value_range import RangeWatch
from helpers.switches import paired


def delivery(rewards, ended=(), starts=()) -> Step:
    """Rewards of environments 0, 1, ...; RangeWatch uses nothing else."""
    lanes, flags, none = np.arange(len(rewards)), np.zeros(len(rewards), np.bool_), np.zeros(0)
    over = np.isin(lanes, ended)
    return Step(
        lanes=lanes, action=lanes, reward=np.array(rewards, np.float32), terminated=over,
        truncated=flags, next_obs=none, start_lanes=np.array(starts, np.int64), start_obs=none,
        ended_lanes=np.array(ended, np.int64), returns=none, lengths=none,
    )  # fmt: skip


def make_watch(v_min=-1.0, v_max=2.0, scale=1.0):
    said = []
    return RangeWatch(2, 0.5, v_min, v_max, lambda: scale, said.append), said


def test_returns_outside_the_range_are_reported_once_with_their_range():
    watch, said = make_watch()
    watch.follow(delivery([1.0, -1.0]))
    watch.follow(delivery([1.5, -1.0], ended=[0]))  # 1.5 + 0.5 * 1: at the end of the range
    assert said == []
    watch.follow(delivery([0.0, -1.0], ended=[1]))  # -1 - 0.5 - 0.25
    (line,) = said
    assert line.startswith("discounted returns range from -1.75 to 2, ")
    assert "--v-min and --v-max" in line
    watch.follow(delivery([9.0, -9.0], ended=[0, 1]))
    assert len(said) == 1


def test_a_new_episode_begins_at_zero_also_where_the_last_one_was_cut():
    watch, said = make_watch()
    for _ in range(9):
        watch.follow(delivery([1.5, 1.5], ended=[0]))
        watch.follow(delivery([], starts=[1]))
    watch.follow(delivery([1.5, 1.5], ended=[0, 1]))
    assert said == []


def test_a_late_reward_is_detected_despite_its_discount():
    watch, said = make_watch(v_min=-10.0, v_max=10.0)
    for _ in range(40):
        watch.follow(delivery([0.0, 0.0]))
    watch.follow(delivery([100.0, 0.0], ended=[0]))
    assert "range from 9.095e-11 to 100, " in said[0]


def test_the_reported_range_consists_of_observed_returns():
    watch, said = make_watch(v_min=20.0, v_max=90.0)
    watch.follow(delivery([3.0, 0.0], ended=[0]))
    assert "range from 3 to 3, " in said[0]


def test_returns_are_compared_in_the_scale_that_the_learner_sees():
    watch, said = make_watch(scale=0.1)
    watch.follow(delivery([15.0, -9.0], ended=[0, 1]))
    assert said == []
    watch.follow(delivery([25.0, 0.0], ended=[0]))
    assert "range from -0.9 to 2.5" in said[0]


def test_the_watch_continues_from_a_state_in_mid_episode():
    one, _ = make_watch()
    one.follow(delivery([2.0, 0.0]))
    two, said = make_watch()
    two.load_state(one.state())
    two.follow(delivery([1.0, 0.0], ended=[0]))
    assert "range from 2 to 2.5" in said[0]
    three, said = make_watch()
    three.load_state(two.state())
    three.follow(delivery([9.0, 0.0], ended=[0]))
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize(("v_max", "warned"), [(5.0, True), (101.0, False)])
def test_a_range_that_is_too_narrow_lands_in_the_summary(tmp_path, v_max, warned):
    run = fastdqn.train(paired(tmp_path, "categorical", v_max=v_max, gamma=1.0, eval_episodes=1))
    told = json.loads((run.folder / "summary.json").read_text())["warnings"]
    assert len(told) == warned
    assert all("v-max" in line for line in told)


class Endless(gymnasium.Env):
    """Rewards of 1 for ever, cut after 10 steps."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, False, self.t == 10, {}


@pytest.mark.slow
def test_normalized_rewards_are_compared_with_the_range(tmp_path):
    """Ten rewards of 1 are 10, over their deviation less than 5."""
    narrow = {"v_min": -1.0, "v_max": 9.0, "gamma": 1.0}
    for normalize, warned in ((False, 1), (True, 0)):
        run = fastdqn.train(
            paired(tmp_path / str(normalize), "categorical", **narrow).replace(
                normalize_reward=normalize, vectorization="sync"
            ),
            Endless,
        )
        assert len(run.summary["warnings"]) == warned
