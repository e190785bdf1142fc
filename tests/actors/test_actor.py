"""Blocks of steps, and an actor in this process."""

import functools
from typing import Any

import numpy as np
import pytest

from fastdqn.actors.actor import Actor, Parts
from fastdqn.actors.block import Block, Failure, copied, join, split
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.envs import EnvError, Step
from helpers.remote import small
from helpers.setups import setup_of

pytest.importorskip("ray", reason="Ray is not installed")

from fastdqn.builders.actors import _Plan, actor_config, make_parts


def step_of(lanes, ended=(), info=None) -> Step:
    n, e = len(lanes), len(ended)
    lanes, ended = np.array(lanes, np.int64), np.array(ended, np.int64)
    obs = np.arange(2.0 * n).reshape(n, 2) + 10 * n
    return Step(
        lanes, lanes % 2, lanes + 0.5, lanes > 1, lanes > 2, obs, ended, np.ones((e, 2)), ended,
        ended + 7.0, ended + 9, None, None, info,
    )  # fmt: skip


def assert_equal(a: Step, b: Step) -> None:
    for name, one in a._asdict().items():
        other = getattr(b, name)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key], equal_nan=True) for key in one)
        else:
            assert (one is None) == (other is None), name
            assert one is None or (np.array_equal(one, other) and one.dtype == other.dtype), name


def test_the_steps_of_a_block_are_those_that_were_joined():
    steps = [
        step_of([0, 1, 2]),
        step_of([]),
        step_of([1], ended=[0, 2], info={"a": np.array([1.0, np.nan])}),
        step_of([2, 0], ended=[1], info={"a": np.array([4.0])}),
    ]
    whole, ends = join(steps)
    block = Block(0, 0, 0, whole, ends, None, 0.0, 0.0, 6)
    found = list(split(block))
    assert len(found) == len(steps)
    for before, after in zip(steps, found, strict=True):
        assert_equal(before, after)


def test_a_copied_step_keeps_nothing_of_the_stream_and_has_the_lanes_of_the_run():
    step = step_of([0, 1], ended=[1], info={"a": np.array([1.0])})
    copy = copied(step, 6)
    assert copy.lanes.tolist() == [6, 7]
    assert copy.start_lanes.tolist() == copy.ended_lanes.tolist() == [7]
    for name in ("reward", "next_obs", "start_obs", "returns"):
        assert not np.shares_memory(getattr(step, name), getattr(copy, name))


def parts_of(config, actor=0) -> Parts:
    setup = setup_of(config)
    return make_parts(_Plan(setup.config, None, setup.facts, setup.own, actor, 0, 0))


def test_an_actor_steps_its_environments_as_a_stream_of_this_process(tmp_path):
    config = small(tmp_path, actors=2, actor_num_envs=3)
    actor: Any = Actor(functools.partial(parts_of, config), 1, 0, 3, block_steps=4)
    start, has_masks = actor.start(100)
    assert start.start_lanes.tolist() == [3, 4, 5]
    assert start.start_obs[:, 0].tolist() == [100, 101, 102]
    assert not has_masks
    obs = dict(zip(start.start_lanes.tolist(), start.start_obs, strict=True))
    total = 0
    for number in range(3):
        block = actor.collect(None, 0, 0.5)
        assert (block.actor, block.incarnation, block.number) == (1, 0, number)
        for step in split(block):
            for i, lane in enumerate(step.lanes):
                before, after = obs[lane], step.next_obs[i]
                assert after.tolist() == [before[0], before[1], before[2] + 1]
                obs[lane] = after
            for lane, first in zip(step.start_lanes, step.start_obs, strict=True):
                assert first.tolist() == [obs[lane][0], obs[lane][1] + 1, 0]
                obs[lane] = first
            total += len(step.lanes)
        assert block.produced == total
    actor.close()


def test_an_actor_acts_with_the_weights_that_it_was_sent(tmp_path):
    made = []

    def make():
        made.append(parts_of(small(tmp_path, actors=2)))
        return made[0]

    actor = Actor(make, 0, 0, 0, block_steps=1)
    online = made[0].online
    size = online.weights.numel() + online.buffers.numel()
    sent = np.arange(size, dtype=np.float32)
    sent.flags.writeable = False  # as Ray returns it
    actor.start(1)
    actor.collect(sent, 0, 0.0)
    assert np.array_equal(online.weights.numpy(), sent[: online.weights.numel()])
    actor.collect(sent * 0, 0, 0.0)  # of the same version
    assert np.array_equal(online.weights.numpy(), sent[: online.weights.numel()])
    actor.close()


def test_the_random_numbers_of_actors_and_of_incarnations_differ(tmp_path):
    config = setup_of(small(tmp_path, actors=2)).config
    seeds = {actor_config(config, actor, life).seed for actor in range(3) for life in range(3)}
    assert len(seeds) == 9


def test_a_resumed_run_explores_with_other_random_numbers(tmp_path):
    config = setup_of(small(tmp_path, actors=2)).config
    assert actor_config(config, 0, 0, 0).seed != actor_config(config, 0, 0, 100).seed


@pytest.mark.parametrize("store", ["rows", "frames", "device"])
@pytest.mark.parametrize("stack", [1, 4])
def test_rows_of_an_actor_have_the_frames_of_the_replay(tmp_path, store, stack):
    config = setup_of(small(tmp_path, actors=2)).config.replace(store=store)
    assert keeps_frames(actor_config(config, 0, 0), stack) == keeps_frames(config, stack)


def test_every_window_of_a_large_block_has_a_priority(tmp_path):
    config = small(
        tmp_path, actors=2, actor_num_envs=8, prioritized=True, actor_priorities=True,
        learner="torch",
    )  # fmt: skip
    actor = Actor(functools.partial(parts_of, config), 0, 0, 0, block_steps=64)
    actor.start(1)
    for _ in range(2):
        block: Any = actor.collect(None, 0, 0.5)
        assert len(block.priorities.lane) == block.priorities.ends[-1] > 256
    actor.close()


def test_an_error_of_an_environment_travels_as_a_value(tmp_path):
    config = small(tmp_path, actors=2, env_id="helpers.remote:Failing-v0")
    actor = Actor(functools.partial(parts_of, config), 0, 0, 0, block_steps=4)
    actor.start(1)
    found = actor.collect(None, 0, 0.0)
    assert isinstance(found, Failure)
    assert found.kind == EnvError.__name__
    assert "env 0, step 3" in found.line
    assert "the wheel is off" in found.line
    assert "ValueError" in found.trace
    assert isinstance(actor.collect(None, 0, 0.0), Failure)
    actor.close()


def test_an_actor_that_cannot_be_made_says_why():
    def make():
        raise ValueError("no such game")

    actor = Actor(make, 0, 0, 0, 4)
    found = actor.start(1)
    assert isinstance(found, Failure)
    assert "no such game" in found.line
    actor.close()
