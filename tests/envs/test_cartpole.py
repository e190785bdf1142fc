"""FastCartPole equals Gymnasium's vector environment bit for bit."""

import gymnasium
import numpy as np
import pytest

from fastdqn.envs.cartpole import FastCartPole
from fastdqn.envs.env_state import read_env_state, takes_env_state, write_env_state
from fastdqn.envs.make import EnvRecipe


def _pair(num_envs: int, **kwargs):
    theirs = gymnasium.make_vec("CartPole-v1", num_envs, "vector_entry_point", **kwargs)
    ours = EnvRecipe("CartPole-v1", kwargs=kwargs).make(num_envs)
    assert type(ours) is FastCartPole
    return theirs, ours


def _actions(rng, obs, turn):
    """Random ones, and at every third turn those that keep the pole up, for long episodes."""
    if turn % 3:
        return rng.integers(0, 2, len(obs))
    return (obs[:, 2] + 0.3 * obs[:, 3] > 0).astype(np.int64)


def _assert_equal_steps(theirs, ours, turns: int, obs) -> None:
    rng = np.random.default_rng(1)
    for turn in range(turns):
        actions = _actions(rng, obs, turn)
        expected, got = theirs.step(actions)[:4], ours.step(actions)[:4]
        for left, right in zip(expected, got, strict=True):
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes(), turn
        obs = expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 3, 7, 64])
@pytest.mark.parametrize(
    "kwargs", [{}, {"max_episode_steps": 13}, {"sutton_barto_reward": True}], ids=str
)
def test_every_step_is_gymnasiums_own(num_envs, kwargs):
    theirs, ours = _pair(num_envs, **kwargs)
    obs, _ = theirs.reset(seed=5)
    assert ours.reset(seed=5)[0].tobytes() == obs.tobytes()
    _assert_equal_steps(theirs, ours, 1500, obs)


def test_bounds_of_a_reset_hold_for_later_episodes():
    theirs, ours = _pair(8)
    bounds = {"low": -0.2, "high": 0.1}
    obs, _ = theirs.reset(seed=1, options=dict(bounds))
    ours.reset(seed=1, options=dict(bounds))
    _assert_equal_steps(theirs, ours, 300, obs)


def test_state_is_interchangeable_with_gymnasium():
    theirs, ours = _pair(5)
    obs, _ = ours.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        obs = ours.step(rng.integers(0, 2, 5))[0].copy()
    state = read_env_state(ours)
    assert takes_env_state(theirs, state)
    theirs.reset(seed=9)
    write_env_state(theirs, state)
    _assert_equal_steps(theirs, ours, 200, obs)


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        ([0, 2, 1], "env 1: action 2 is neither 0 nor 1"),
        ([0, 1, -1], "env 2: action -1 is neither 0 nor 1"),
        ([0, 1], r"actions have shape \(2,\): expected one for each sub-environment"),
    ],
)
def test_invalid_actions_are_rejected(actions, line):
    ours = EnvRecipe("CartPole-v1").make(3)
    ours.reset(seed=1)
    with pytest.raises(ValueError, match=line):
        ours.step(np.array(actions))


def test_a_step_needs_a_reset_first():
    with pytest.raises(ValueError, match=r"step\(\) was called before reset\(\)"):
        EnvRecipe("CartPole-v1").make(2).step(np.zeros(2, np.int64))


@pytest.mark.parametrize("limit", ["x", None, True, 0, -1, float("nan")], ids=str)
def test_an_invalid_time_limit_is_one_line(limit):
    with pytest.raises(ValueError, match="CartPole-v1 cannot be made: ") as raised:
        EnvRecipe("CartPole-v1", kwargs={"max_episode_steps": limit}).make(2)
    assert "\n" not in str(raised.value)


def test_any_time_limit_uses_the_same_kernel():
    for limit in (2.5, 10**30):
        ours = EnvRecipe("CartPole-v1", kwargs={"max_episode_steps": limit}).make(2)
        ours.reset(seed=1)
        ours.step(np.zeros(2, np.int64))
        ours.step(np.zeros(2, np.int64))
        truncated = ours.step(np.zeros(2, np.int64))[3]
        assert truncated.all() == (limit == 2.5)
