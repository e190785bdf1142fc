"""Failed environments that are restarted: what is stored, counted and reported."""

import itertools
import json
import multiprocessing
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

import fastdqn
from fastdqn import ConfigError, EnvError
from fastdqn.envs import EnvStream
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler
from helpers.loop import small
from helpers.memory_segments import shared_memory


class Mortal(gymnasium.Env):
    """Episodes of 7 steps; the observation holds the generator's first number and the time, and a
    process fails in its 10th step if that number is small."""

    observation_space = spaces.Dict(
        who=spaces.Box(0.0, 1.0, (1,), np.float32), t=spaces.Box(0.0, 99.0, (1,), np.float32)
    )
    action_space = spaces.Discrete(2)

    def __init__(self, fail):
        self.fail, self.made = fail, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.who = self.np_random.random()
        return self._obs(), {}

    def step(self, action):
        self.made, self.t = self.made + 1, self.t + 1
        if self.made % 10 == 0 and self.who < 0.5:
            self.fail()
        return self._obs(), 1.0, False, self.t == 7, {}

    def _obs(self):
        return {"who": np.full(1, self.who, np.float32), "t": np.full(1, self.t, np.float32)}


def raise_():
    raise RuntimeError("boom")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "wait_for", "fail"),
    [(AutoresetMode.NEXT_STEP, 4, raise_), (AutoresetMode.SAME_STEP, 4, die),
     (AutoresetMode.NEXT_STEP, 2, die), (AutoresetMode.SAME_STEP, 3, raise_)],
)  # fmt: skip
def test_no_transition_joins_the_episodes_before_and_after_a_restart(mode, wait_for, fail):
    envs = AsyncVectorEnv([lambda: Mortal(fail)] * 4, autoreset_mode=mode)
    stream = EnvStream(envs, wait_for, restarts=99)
    replay = Replay(
        Ring(4, 200), RowStore(4, 200, (2,), np.float32), UniformSampler(1), n_steps=3, gamma=0.5
    )
    replay.append(stream.start(seed=1))
    ended = 0
    for _ in range(120):
        stream.send(np.zeros(wait_for, np.int64))
        step = stream.recv()
        replay.append(step)
        ended += len(step.ended_lanes)
        assert set(step.lengths) <= {7}  # an interrupted episode is not counted
    restarts = stream.env_calls.lost
    assert len(restarts) > 3
    assert ended > 20
    batch = replay.new_batch(512)
    replay.sample(batch)
    who, t = (np.stack((batch.obs[:, i], batch.next_obs[:, i]), 1) for i in (0, 1))
    np.testing.assert_array_equal(who[:, 0], who[:, 1])
    lengths = t[:, 1] - t[:, 0]
    assert set(lengths) == {1, 2, 3}
    np.testing.assert_allclose(batch.reward, [sum(0.5**i for i in range(int(n))) for n in lengths])
    np.testing.assert_allclose(batch.discount, 0.5**lengths)  # none of them is terminated
    stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("fail", [raise_, die])
def test_a_run_continues_and_reports_and_counts_restarts(tmp_path, fail):
    before = shared_memory()
    config = small(
        tmp_path, vectorization="async", restart_envs=50, total_timesteps=300, learning_starts=60
    )
    run = fastdqn.train(config, lambda: Mortal(fail))
    warnings, count = run.summary["warnings"], run.summary["restarted_envs"]
    assert len(warnings) == count > 2
    what = "RuntimeError: boom" if fail is raise_ else "its worker process was killed by signal 9"
    for i, line in enumerate(warnings):
        assert line.startswith("env ")
        assert "(seed " in line
        assert what in line
        assert line.endswith(f"restarted ({i + 1} of 50); its episode is truncated")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    counted = [row.get("rollout/restarted_envs", 0) for row in rows]
    assert counted == sorted(counted)
    assert counted[-1] == count
    lengths = [
        int(line.split(",")[4]) for line in (run.folder / "episodes.csv").read_text().split()[1:]
    ]
    assert set(lengths) == {7}
    assert not multiprocessing.active_children()
    assert shared_memory() == before


@pytest.mark.slow
def test_one_failure_more_ends_the_run_with_the_reason(tmp_path):
    config = small(tmp_path, vectorization="async", restart_envs=1)
    with pytest.raises(EnvError, match=r"boom\. All 1 restarts of --restart-envs are used up$"):
        fastdqn.train(config, lambda: Mortal(raise_))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["restarted_envs"] == 1
    assert not multiprocessing.active_children()


def test_a_restarted_environment_has_a_new_seed_in_the_next_message():
    stream = EnvStream(AsyncVectorEnv([lambda: Mortal(raise_)] * 2), restarts=99)
    stream.start(seed=4)
    for _ in range(60):
        stream.send(np.zeros(2, np.int64))
        stream.recv()
    seeds = [str(error).partition("seed ")[2].partition(",")[0] for error in stream.env_calls.lost]
    assert len(set(seeds)) == len(seeds) > 2
    lanes = [str(error).split(",")[0] for error in stream.env_calls.lost]
    for lane, of_lane in itertools.groupby(sorted(zip(lanes, map(int, seeds), strict=True)),
                                           key=lambda pair: pair[0]):  # fmt: skip
        assert all(seed % 2 == int(lane.removeprefix("env ")) for _, seed in of_lane)
    stream.close()


def test_restarting_given_environments_is_rejected(tmp_path):
    envs = AsyncVectorEnv([lambda: Mortal(raise_)] * 4)
    with pytest.raises(ConfigError, match="restart_envs is 2, which does not apply to a VectorEnv"):
        fastdqn.train(small(tmp_path, restart_envs=2), envs)
    envs.close()
    with pytest.raises(ConfigError, match="restart_envs is 2, and only worker processes"):
        fastdqn.train(small(tmp_path, restart_envs=2))
