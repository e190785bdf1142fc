"""EnvStream gives the same transitions for every autoreset mode and environment."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fastdqn.envs import EnvStream, Step
from fastdqn.envs.sub_env import SubEnv
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from fastdqn.replay import Replay
from helpers.compiled_envs import scripted_compiled
from helpers.oracles import (
    BOTH,
    TERMINATED,
    TRUNCATED,
    ReplayModel,
    ScriptedEnv,
    assert_rows_equal,
    lived_alone,
    make_replay,
    random_script,
    read_rows,
    scripted_action,
    valid_rows,
)
from helpers.stream_scripts import SCRIPTS

NEXT_STEP, SAME_STEP, DISABLED = (
    AutoresetMode.NEXT_STEP,
    AutoresetMode.SAME_STEP,
    AutoresetMode.DISABLED,
)
MODES = (NEXT_STEP, SAME_STEP, DISABLED)
every_mode = pytest.mark.parametrize("mode", MODES)


def scripted(scripts, mode=NEXT_STEP, make_vec: Callable = SyncVectorEnv, **kwargs):
    """A vector environment with one sub-environment for each script."""
    makers = [partial(ScriptedEnv, lane, script, **kwargs) for lane, script in enumerate(scripts)]
    # As make_envs() does: the vector environment returns the same array each time.
    return make_vec(makers, autoreset_mode=mode, copy=False)


def replay_for(stream: EnvStream, **sizes: Any) -> Replay:
    sizes = {"rows": 64} | sizes
    facts = stream.facts
    return make_replay(
        stream.num_lanes, obs_shape=facts.obs_shape, obs_dtype=facts.obs_dtype, **sizes
    )


def live(stream: EnvStream, steps_per_lane: int, action=scripted_action):
    """Steps until every environment has made that many, without the surplus of faster ones.

    Actions depend on the lane and on how many steps it made, so that the modes, which need
    different numbers of calls, see the same episodes.
    """
    taken = np.zeros(stream.num_lanes, np.int64)
    yield stream.start(seed=0)
    while taken.min() < steps_per_lane:
        stream.send(np.array([action(lane, t) for lane, t in enumerate(taken.tolist())]))
        step = stream.recv()
        taken[step.lanes] += 1
        yield up_to(step, taken, steps_per_lane)


def up_to(step: Step, taken, limit: int) -> Step:
    """A step without the transitions and starts of environments past the limit."""
    made, begun = taken[step.lanes] <= limit, taken[step.start_lanes] < limit
    ended = taken[step.ended_lanes] <= limit
    columns: list[Any] = [column[made] for column in step[:6]]
    columns += [step.start_lanes[begun], step.start_obs[begun]]
    columns += [column[ended] for column in (step.ended_lanes, step.returns, step.lengths)]
    return Step(*columns)


def stored(stream: EnvStream, steps_per_lane: int, **sizes) -> Replay:
    replay = replay_for(stream, **sizes)
    for step in live(stream, steps_per_lane):
        replay.append(step)
    stream.close()
    return replay


def assert_as_lived_alone(replay: Replay, scripts, steps: int, **kwargs) -> None:
    """The replay holds exactly the transitions that each environment makes by itself."""
    model = ReplayModel(len(scripts), replay.ring.rows, replay.n_steps, replay.gamma)
    model.lanes = [
        lived_alone(ScriptedEnv(lane, script, **kwargs), lane, steps)[0]
        for lane, script in enumerate(scripts)
    ]
    windows, held = model.valid(), valid_rows(replay)
    assert sorted(held) == sorted(windows)
    assert_rows_equal(read_rows(replay, held), windows)


# -- what is stored


@every_mode
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_stored_transitions_are_those_of_single_environments(mode, n_steps):
    replay = stored(EnvStream(scripted(SCRIPTS, mode)), 25, n_steps=n_steps)
    assert_as_lived_alone(replay, SCRIPTS, 25)


@pytest.mark.slow
def test_async_environments_store_the_same():
    for mode in (NEXT_STEP, SAME_STEP):
        make_vec = partial(AsyncVectorEnv, context="forkserver")
        replay = stored(EnvStream(scripted(SCRIPTS[:2], mode, make_vec)), 12)
        assert_as_lived_alone(replay, SCRIPTS[:2], 12)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_workers_store_the_same(mode, workers, n_steps):
    makers = [lambda i=i: SubEnv(ScriptedEnv(i, SCRIPTS[i])) for i in range(len(SCRIPTS))]
    workers = min(workers, len(SCRIPTS))
    stream = EnvStream(WorkerVectorEnv(makers, workers, autoreset_mode=mode))
    assert_as_lived_alone(stored(stream, 25, n_steps=n_steps), SCRIPTS, 25)


@every_mode
@pytest.mark.parametrize("seed", range(8))
def test_compiled_envs_store_the_same(mode, seed):
    rng = np.random.default_rng(seed)
    limit, n_steps = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    scripts = [
        [(n, TERMINATED) if n < limit else (n, str(rng.choice([TRUNCATED, BOTH]))) for n in lengths]
        for lengths in rng.integers(1, limit + 1, (int(rng.integers(1, 5)), 4)).tolist()
    ]
    stream = EnvStream(scripted_compiled(scripts, limit, mode, copy=False))
    replay = stored(stream, 30, n_steps=n_steps)
    assert_as_lived_alone(replay, scripts, 30)


@every_mode
def test_all_environments_may_end_at_once(mode):
    scripts = [[(2, TERMINATED), (1, TRUNCATED), (1, BOTH)]] * 3
    replay = stored(EnvStream(scripted(scripts, mode)), 13)
    assert_as_lived_alone(replay, scripts, 13)


@pytest.mark.parametrize("end", [TERMINATED, TRUNCATED, BOTH])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_one_step_episodes_end_correctly(length, end):
    for mode in MODES:
        replay = stored(EnvStream(scripted([[(length, end)]], mode)), 9, n_steps=2)
        assert_as_lived_alone(replay, [[(length, end)]], 9)


@pytest.mark.parametrize("seed", range(60))
def test_the_three_modes_store_equal_bytes(seed):
    rng = np.random.default_rng(seed)
    scripts = [random_script(rng) for _ in range(rng.integers(1, 6))]
    n_steps, steps = int(rng.integers(1, 6)), int(rng.integers(5, 40))
    rows = n_steps + 1 + int(rng.integers(0, 30))  # many of them wrap, in mid-episode too
    replays = [
        stored(EnvStream(scripted(scripts, mode)), steps, rows=rows, n_steps=n_steps)
        for mode in MODES
    ]
    assert_as_lived_alone(replays[0], scripts, steps)
    every_slot = np.arange(len(scripts) * rows)
    obs = [np.zeros((len(every_slot), 3), np.float32) for _ in MODES]
    for replay, out in zip(replays, obs, strict=True):
        replay.store.gather(every_slot, out)
    for replay, out in zip(replays[1:], obs[1:], strict=True):
        for column in ("added", "action", "reward", "status"):
            assert bytes(getattr(replay.ring, column)) == bytes(getattr(replays[0].ring, column))
        assert bytes(out) == bytes(obs[0])


def test_native_cartpole_follows_the_single_environment():
    stream = EnvStream(CartPoleVectorEnv(num_envs=3, max_episode_steps=12))
    single, ends = CartPoleEnv(), set()
    states, steps = np.zeros((3, 4)), np.zeros(3, np.int64)
    for step in live(stream, 80, lambda lane, t: t // 3 % 2 if lane else t // 40 % 2):
        for i, lane in enumerate(step.lanes):
            single.reset()
            single.state = states[lane]
            obs, reward, terminated, _, _ = single.step(int(step.action[i]))
            steps[lane] += 1
            truncated = bool(steps[lane] == 12)
            np.testing.assert_allclose(step.next_obs[i], obs, rtol=1e-4, atol=1e-5)
            assert (reward, terminated, truncated) == (
                step.reward[i], step.terminated[i], step.truncated[i],
            )  # fmt: skip
            states[lane] = step.next_obs[i]
            ends |= {TERMINATED} if terminated else {TRUNCATED} if truncated else set()
        states[step.start_lanes], steps[step.start_lanes] = step.start_obs, 0
        assert (np.abs(step.start_obs) <= 0.05).all()
    assert ends == {TERMINATED, TRUNCATED}


def test_same_step_accepts_final_obs_as_a_dense_array_without_a_mask():
    replay = stored(EnvStream(scripted(SCRIPTS, SAME_STEP, DenseFinalObs)), 25)
    assert_as_lived_alone(replay, SCRIPTS, 25)


class DenseFinalObs(SyncVectorEnv):
    """final_obs as the Arcade Learning Environment returns it."""

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        if "final_obs" in info:
            dense = obs.copy()
            for lane in np.flatnonzero(info["_final_obs"]):
                dense[lane] = info["final_obs"][lane]
            info = {"final_obs": dense}
        return obs, reward, terminated, truncated, info


# Gymnasium's SAME_STEP keeps a reference to the last observation and then resets, so there an
# environment that reuses its buffer has overwritten it before it can be read.
@pytest.mark.parametrize("mode", [NEXT_STEP, DISABLED])
def test_an_environment_may_reuse_its_observation_buffer(mode):
    replay = stored(EnvStream(scripted(SCRIPTS, mode, reuse_buffer=True)), 25)
    assert_as_lived_alone(replay, SCRIPTS, 25)


@every_mode
def test_a_step_does_not_share_memory_with_the_environment(mode):
    envs = scripted([[(2, TERMINATED)], [(9, TERMINATED)]], mode)
    stream = EnvStream(envs)
    for step in live(stream, 2):
        given, delivered = envs._observations, (stream.obs, step.next_obs, step.start_obs)
        before = [obs.copy() for obs in delivered]
        given += 100
        for obs, old in zip(delivered, before, strict=True):
            np.testing.assert_array_equal(obs, old)


def test_closing_in_mid_episode_adds_no_transition():
    stream = EnvStream(scripted(SCRIPTS))
    replay = replay_for(stream, n_steps=3)
    for step in live(stream, 7):
        replay.append(step)
    model = ReplayModel(4, replay.ring.rows, 3, replay.gamma)
    model.lanes = [
        lived_alone(ScriptedEnv(lane, script), lane, 7)[0] for lane, script in enumerate(SCRIPTS)
    ]
    assert [lane.is_open for lane in model.lanes] == [False, True, False, True]
    before = len(replay)
    replay.append(stream.start(seed=0))  # on open lanes: a restart
    for lane, env in enumerate(SCRIPTS):
        model.lanes[lane].start(ScriptedEnv(lane, env).reset(seed=0)[0])
    assert len(replay) == before + 4
    assert sorted(valid_rows(replay)) == sorted(model.valid())
    assert_rows_equal(read_rows(replay, valid_rows(replay)), model.valid())


# -- the contents of a step


@every_mode
def test_the_first_step_is_a_start_of_every_environment(mode):
    stream = EnvStream(scripted(SCRIPTS, mode))
    step = stream.start(seed=0)
    assert len(step.lanes) == len(step.next_obs) == len(step.ended_lanes) == 0
    assert step.start_lanes.tolist() == [0, 1, 2, 3]
    assert step.start_obs.tolist() == [[lane, 0, 0] for lane in range(4)]
    np.testing.assert_array_equal(stream.obs, step.start_obs)


def test_next_step_returns_a_start_one_call_later_and_counts_no_step():
    stream = EnvStream(scripted([[(1, TERMINATED)], [(3, TERMINATED)]], NEXT_STEP))
    stream.start(seed=0)
    told = []
    for _ in range(4):
        stream.send(np.zeros(2, np.int64))
        step = stream.recv()
        told.append((step.lanes.tolist(), step.start_lanes.tolist(), step.ended_lanes.tolist()))
    assert told == [([0, 1], [], [0]), ([1], [0], []), ([0, 1], [], [0, 1]), ([], [0, 1], [])]


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_the_other_modes_return_a_start_in_the_same_call(mode):
    stream = EnvStream(scripted([[(1, TERMINATED)], [(2, TRUNCATED)]], mode))
    stream.start(seed=0)
    stream.send(np.zeros(2, np.int64))
    step = stream.recv()
    assert step.lanes.tolist() == [0, 1]
    assert step.next_obs.tolist() == [[0, 0, 1], [1, 0, 1]]
    assert step.start_lanes.tolist() == [0]
    assert step.start_obs.tolist() == [[0, 1, 0]]
    assert stream.obs.tolist() == [[0, 1, 0], [1, 0, 1]]


@every_mode
def test_episode_returns_and_lengths_are_those_of_single_environments(mode):
    stream, told = EnvStream(scripted(SCRIPTS, mode)), [[] for _ in SCRIPTS]
    for step in live(stream, 25):
        for i, lane in enumerate(step.ended_lanes):
            told[lane].append((step.returns[i], step.lengths[i]))
    for lane, script in enumerate(SCRIPTS):
        assert told[lane] == lived_alone(ScriptedEnv(lane, script), lane, 25)[1]


def test_a_second_start_drops_open_episodes():
    stream = EnvStream(scripted([[(3, TERMINATED)]]))
    lengths = []
    for calls in (2, 3):  # the first time, the episode is left before its end
        stream.start(seed=0)
        for _ in range(calls):
            stream.send(np.zeros(1, np.int64))
            lengths += stream.recv().lengths.tolist()
    assert lengths == [3]


# -- types


def test_actions_are_counted_from_zero_for_every_environment():
    stream = EnvStream(scripted(SCRIPTS, SAME_STEP, action_start=5))
    replay = stored(stream, 25)  # ScriptedEnv refuses actions that are not 5 to 8
    assert stream.facts.action_start == 5
    assert np.unique(replay.ring.action).tolist() == [0, 1, 2, 3]
    assert_as_lived_alone(replay, SCRIPTS, 25, action_start=5)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float64, np.float32), (np.float32, np.float32), (np.uint8, np.uint8),
        (np.int64, np.float32), (np.int8, np.int8),
    ],
)  # fmt: skip
def test_bytes_stay_bytes_and_the_rest_becomes_float32(mode, given, kept):
    replay = stored(EnvStream(scripted(SCRIPTS, mode, obs_dtype=given)), 12)
    assert replay.store.obs_dtype == kept
    assert_as_lived_alone(replay, SCRIPTS, 12)
