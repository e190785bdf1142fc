"""Compiled environments give the bits of Gymnasium's own, and of the same functions in Python."""

import math
import multiprocessing
import os
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastdqn.compiled import CompiledEnv, CompiledVectorEnv, find_definition, kernels
from helpers.compiled_envs import walk

SAME = [
    ("CartPole-v1", {}),
    ("CartPole-v1", {"sutton_barto_reward": True, "max_episode_steps": 13}),
    ("MountainCar-v0", {}),
    ("MountainCar-v0", {"goal_velocity": 0.02, "max_episode_steps": 150}),
    ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": True}),
    ("FrozenLake-v1", {"is_slippery": False, "desc": ["SF", "FG"]}),
    ("Taxi-v4", {"is_rainy": True}),
    ("CliffWalkingSlippery-v1", {"max_episode_steps": 40}),
]


# Random states and paired episodes of Acrobot; 100,000 and 200 take a minute.
STATES = int(os.environ.get("FASTDQN_STATES", "5000"))
EPISODES = max(40, STATES // 500)


def pair(env_id, kwargs, mode, num_envs=4):
    limit = kwargs.get("max_episode_steps")
    own = {name: value for name, value in kwargs.items() if name != "max_episode_steps"}
    ours = CompiledVectorEnv(
        find_definition(env_id, own), num_envs, max_episode_steps=limit, autoreset_mode=mode
    )
    makers = [lambda: gymnasium.make(env_id, **kwargs)] * num_envs
    return ours, SyncVectorEnv(makers, autoreset_mode=mode)


def lives_alike(left, right, turns, seed=5, choose=None) -> int:
    """Steps both with the same random actions; returns the number of episode ends."""
    rng, ends = np.random.default_rng(1), 0
    assert_alike(left.reset(seed=seed), right.reset(seed=seed))
    space = left.single_action_space
    low = space.start
    for _ in range(turns):
        action = low + rng.integers(0, space.n, left.num_envs)
        ours, theirs = left.step(action), right.step(action)
        assert_alike(ours, theirs)
        ended = ours[2] | ours[3]
        ends += ended.sum()
        if left.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            again = [each.reset(options={"reset_mask": ended.copy()}) for each in (left, right)]
            assert_alike(*again)
    return ends


def assert_alike(ours, theirs) -> None:
    for left, right in zip(ours[:-1], theirs[:-1], strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()
    left, right = ours[-1], theirs[-1]
    for key in ("action_mask", "final_obs"):
        assert (key in left) == (key in right)
        if key in left:
            assert np.array_equal(left[f"_{key}"], right[f"_{key}"])
            for mine, other in zip(left[key], right[key], strict=True):
                assert np.array_equal(mine, other)
    inner = [each.get("final_info", {}).get("action_mask") for each in (left, right)]
    assert np.array_equal(inner[0], inner[1]) if inner[0] is not None else inner[1] is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("env_id", "kwargs"), SAME, ids=str)
def test_every_step_is_gymnasiums_own(env_id, kwargs, mode):
    ours, theirs = pair(env_id, kwargs, mode)
    assert lives_alike(ours, theirs, 400) > 0


@pytest.mark.slow
def test_a_long_cartpole_is_gymnasiums_own():
    """A controller keeps the pole up, so that the time limit is reached."""
    ours, theirs = pair("CartPole-v1", {}, AutoresetMode.NEXT_STEP, 3)
    obs = ours.reset(seed=2)[0]
    theirs.reset(seed=2)
    truncated = 0
    for _ in range(1100):
        action = (obs[:, 2] + 0.3 * obs[:, 3] > 0).astype(np.int64)
        left, right = ours.step(action), theirs.step(action)
        assert_alike(left, right)
        obs, truncated = left[0], truncated + left[3].sum()
    assert truncated >= 3


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "fastdqn/Catch-v0", "FrozenLake-v1"])
def test_compiled_functions_give_what_python_gives(env_id, mode):
    definition = find_definition(env_id, {})
    left, right = (
        CompiledVectorEnv(definition, 3, autoreset_mode=mode, compiled=compiled)
        for compiled in (True, False)
    )
    assert lives_alike(left, right, 60) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
def test_random_numbers_are_those_of_numpys_generator(mode):
    """Compiled, in Python, in threads, and as single environments."""
    left = CompiledVectorEnv(walk(), 5, autoreset_mode=mode)
    assert lives_alike(left, CompiledVectorEnv(walk(), 5, autoreset_mode=mode, compiled=False), 60)
    with_threads = CompiledVectorEnv(walk(), 5, autoreset_mode=mode, threads=3)
    assert lives_alike(left, with_threads, 60)
    with_threads.close()
    limit = walk().max_episode_steps or 0
    single = SyncVectorEnv(
        [lambda: gymnasium.wrappers.TimeLimit(CompiledEnv(walk()), limit)] * 5, autoreset_mode=mode
    )
    assert lives_alike(left, single, 60)


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own():
    envs = CompiledVectorEnv(walk(), 5, threads=3)
    envs.reset(seed=0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(envs.step(np.zeros(5, np.int64))[1]))
    child.start()
    assert ours.poll(60)
    assert np.array_equal(ours.recv(), envs.step(np.zeros(5, np.int64))[1])
    child.join(60)
    envs.close()


@pytest.mark.parametrize("line", ["x = state.x; state.x = rng.random() + x", "rng.random()"])
def test_a_step_that_draws_is_known_whatever_the_instruction(line, monkeypatch):
    """Python 3.13 loads a variable in STORE_FAST_LOAD_FAST, too."""
    names: dict = {}
    exec(f"def step(state, action, rng):\n    {line}\n    return 0.0, False", names)
    assert kernels._uses_argument(names["step"], 2)
    given = [SimpleNamespace(opname="STORE_FAST_LOAD_FAST", argval=("x", "rng"))]
    monkeypatch.setattr(kernels.dis, "get_instructions", lambda code: given)
    assert kernels._uses_argument(names["step"], 2)


@pytest.mark.slow
def test_acrobot_steps_as_gymnasiums_to_the_last_bits():
    """One step from random states; angles near -pi and pi may be wrapped either way."""
    count = STATES
    rng = np.random.default_rng(0)
    scale = np.array([math.pi, math.pi, 4 * math.pi, 9 * math.pi])
    states = rng.uniform(-scale, scale, (count, 4))
    actions = rng.integers(0, 3, count)
    ours = CompiledVectorEnv(find_definition("fastdqn/Acrobot-v1", {}), count)
    ours.reset(seed=0)
    fields = ours.states.dtype.names or ()
    for k, name in enumerate(fields):
        ours.states[name] = states[:, k]
    _, reward, terminated, _, _ = ours.step(actions)
    env: Any = gymnasium.make("Acrobot-v1").unwrapped
    expected, signs = np.zeros((count, 4)), np.zeros(count, np.bool_)
    for i in range(count):
        env.state = states[i]
        _, gain, ended, _, _ = env.step(int(actions[i]))
        expected[i] = env.state
        signs[i] = (gain, ended) == (reward[i], terminated[i])
    got = np.stack([ours.states[name] for name in fields], 1)
    turned = np.abs(np.abs(got[:, :2] - expected[:, :2]) - 2 * math.pi) < 1e-9
    error = np.abs(got - expected) / np.maximum(np.abs(expected), 1.0)
    error[:, :2][turned] = 0
    assert error.max() < 1e-12
    assert (~signs).sum() <= count // 10_000


@pytest.mark.slow
def test_paired_episodes_of_acrobot_have_equal_lengths():
    """Random actions; sine and cosine of two libraries decide the last bits."""
    num_envs = EPISODES
    ours = CompiledVectorEnv(find_definition("fastdqn/Acrobot-v1", {}), num_envs)
    theirs = SyncVectorEnv([lambda: gymnasium.make("Acrobot-v1")] * num_envs)
    lengths = np.zeros((2, num_envs), np.int64)
    rng = np.random.default_rng(3)
    for each in (ours, theirs):
        each.reset(seed=1)
    for t in range(1, 501):
        # Pumps energy: torque in the direction of the second joint's speed, mostly.
        action = np.where(
            rng.random(num_envs) < 0.1, rng.integers(0, 3, num_envs),
            1 + np.sign(ours.states.velocity2).astype(np.int64),
        )  # fmt: skip
        for k, each in enumerate((ours, theirs)):
            ended = np.logical_or(*each.step(action)[2:4])
            lengths[k, ended & (lengths[k] == 0)] = t
    assert (lengths > 0).all()
    assert (lengths[0] != lengths[1]).sum() <= max(1, num_envs // 100)
    assert lengths.mean() < 400  # they were not all cut
