"""Every component of a run saves and loads its state, and so do the rows of the replay."""

import os
import shutil

import numpy as np
import pytest

from fastdqn.builders import build
from fastdqn.envs import ReturnStatistics, Step
from fastdqn.logging.console import Silent
from fastdqn.state_dict import StateError
from fastdqn.training import loop
from fastdqn.training.checkpointer import components
from helpers.loop import small
from helpers.setups import setup_of


def built(tmp_path, name: str, **overrides) -> build.Session:
    config = small(tmp_path, run_dir=str(tmp_path / name), **overrides)
    return build.build(setup_of(config), lambda _: Silent())


EVERYTHING = {
    "normalize_observation": True, "normalize_reward": True, "eval_frequency": 200, "noisy": True,
    "value": "categorical", "prioritized": True,
}  # fmt: skip


# Every part that remembers; the list itself is training.checkpointer.components().
PARTS = (
    "progress", "stream", "policy", "learner", "normalizer", "range", "judge", "recorder",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = built(tmp_path_factory.mktemp("trained"), "a", **EVERYTHING)
    loop.train(made.run)
    yield made
    made.close()


def test_the_parts_are_all_that_a_checkpoint_keeps(trained):
    assert sorted(components(trained.run)) == sorted(PARTS)


@pytest.mark.parametrize("name", PARTS)
def test_each_component_loads_its_own_state(tmp_path, trained, name):
    two = built(tmp_path, "b", seed=2, **EVERYTHING)
    state = components(trained.run)[name].state()
    other = components(two.run)[name]
    assert not same(state, other.state())
    if name == "recorder":  # its files are those of the folder
        for file in ("metrics.jsonl", "eval.jsonl", "episodes.csv"):
            shutil.copy(trained.recorder.folder / file, tmp_path / "b" / file)
        for file in other._files().values():  # pyright: ignore[reportAttributeAccessIssue]
            file.size = os.stat(tmp_path / "b" / file.path.name).st_size
    other.load_state(state)
    assert same(state, other.state())
    two.close()


@pytest.mark.parametrize("name", PARTS)
def test_each_component_names_a_missing_or_invalid_field(tmp_path, name):
    made = built(tmp_path, "a", **EVERYTHING)
    part = components(made.run)[name]
    for field in part.state().keys() - {"envs"}:  # of another kind: they are reset
        for wrong in ({}, {field: object()}):
            older = ("restarted_envs", "prefilled", "info", "known_info")  # before: none
            if field in older and not wrong:
                continue
            state = {k: v for k, v in part.state().items() if k != field} | wrong
            with pytest.raises(ValueError, match=field):
                part.load_state(state)
    made.close()


def test_an_all_zero_generator_state_is_rejected(tmp_path):
    made = built(tmp_path, "a")
    policy, replay = made.run.policy, made.run.replay
    for part, *more in ((policy,), (replay.sampler, replay.ring, replay.n_steps)):
        state = part.state()
        state["rng"][:] = 0
        with pytest.raises(StateError, match="rng is all zeros"):
            part.load_state(state, *more)  # pyright: ignore[reportArgumentType]
    made.close()


def test_a_reset_drops_the_return_of_the_open_episode():
    """As at a resume whose environments could not be restored."""
    none, flags = np.empty(0, np.int64), np.zeros(1, np.bool_)

    def step(lanes, reward, start_lanes):
        lanes, starts = np.array(lanes, np.int64), np.array(start_lanes, np.int64)
        of = slice(len(lanes))
        return Step(
            lanes, lanes, np.array(reward), flags[of], flags[of], np.zeros((len(lanes), 1)),
            starts, np.zeros((len(starts), 1)), none, np.empty(0), none,
        )  # fmt: skip

    statistics = ReturnStatistics(1, 0.99)
    for _ in range(5):
        statistics.follow(step([0], [1.0], []))
    statistics.follow(step([], [], [0]))
    assert statistics.state()["returns"].tolist() == [0.0]


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_rows_are_restored_from_segments_despite_overwriting(tmp_path):
    from helpers.oracles import make_replay

    rng = np.random.default_rng(0)
    replay = make_replay(3, rows=11, n_steps=2, obs_shape=(2,))
    replay.start([0, 1, 2], rng.normal(size=(3, 2)))
    segments, saved = [], np.zeros(3, np.int64)
    for turn in range(200):
        lanes = np.flatnonzero(rng.random(3) < 0.8)
        ends = rng.random((2, len(lanes))) < 0.2
        replay.add(
            lanes, lanes, rng.normal(size=len(lanes)), rng.normal(size=(len(lanes), 2)), *ends
        )
        over = lanes[ends.any(0)]
        replay.start(over, rng.normal(size=(len(over), 2)))
        if turn % 17 == 3:
            replay.close([turn % 3])
            replay.start([turn % 3], rng.normal(size=(1, 2)))
        if rng.random() < 0.2:
            segments.append(replay.rows_since(saved))
            saved = segments[-1].last
            other = make_replay(3, rows=11, n_steps=2, obs_shape=(2,), seed=9)
            other.load_state(replay.state(), segments)
            for column in ("added", "action", "reward", "status"):
                written = getattr(replay.ring, column)
                np.testing.assert_array_equal(getattr(other.ring, column), written)
            batch, twin = replay.new_batch(32), other.new_batch(32)
            replay.sample(batch)
            other.sample(twin)
            for one, two in zip(batch[:7], twin[:7], strict=True):
                np.testing.assert_array_equal(one, two)
    with pytest.raises(StateError, match="rows of env 0 end at"):
        make_replay(3, rows=11, obs_shape=(2,)).load_state(replay.state(), segments[:1])
