"""Partial batches: every transition once, in its own environment, in any order."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

import fastdqn
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.envs.sub_env import SubEnv
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from fastdqn.replay import Replay
from helpers.loop import small
from helpers.oracles import (
    LaneModel,
    Outcome,
    ReplayModel,
    ScriptedEnv,
    assert_rows_equal,
    lived_alone,
    make_replay,
    read_rows,
    scripted_action,
    valid_rows,
)
from helpers.stream_scripts import SCRIPTS

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


class UnevenEnv(ScriptedEnv):
    """Environment 0 takes a thousand times as long for a step as the others."""

    def step(self, action):
        if self.lane == 0:
            sum(range(100_000))
        return super().step(action)


def stored(stream: EnvStream, steps_per_lane: int, n_steps=1, num_actions=4):
    """Follows the script until every environment has made that many steps.

    returns  (replay, steps [N] made by each lane, what each delivery brought of each lane)
    """
    facts, n = stream.facts, stream.num_lanes
    replay = make_replay(
        n, rows=2048, n_steps=n_steps, obs_shape=facts.obs_shape, obs_dtype=facts.obs_dtype
    )
    taken, episodes = np.zeros(n, np.int64), []
    replay.append(stream.start(seed=0))
    while taken.min() < steps_per_lane:
        stream.send(
            np.array([scripted_action(i, taken[i]) % num_actions for i in stream.lanes.tolist()])
        )
        step = stream.recv()
        assert len(step.lanes) + len(step.start_lanes) >= stream.num_ready
        replay.append(step)
        taken[step.lanes] += 1
        episodes += zip(
            step.ended_lanes.tolist(), step.returns.tolist(), step.lengths.tolist(), strict=True
        )
    stream.close()
    return replay, taken, episodes


def assert_same_windows(replay: Replay, lanes: list[LaneModel]) -> None:
    model = ReplayModel(len(lanes), replay.ring.rows, replay.n_steps, replay.gamma)
    model.lanes = lanes
    windows, held = model.valid(), valid_rows(replay)
    assert sorted(held) == sorted(windows)
    assert_rows_equal(read_rows(replay, held), windows)


# -- processes


def processes(mode) -> AsyncVectorEnv:
    makers = [partial(UnevenEnv, lane, script) for lane, script in enumerate(SCRIPTS)]
    return AsyncVectorEnv(makers, autoreset_mode=mode)


def groups(mode, in_turns: bool) -> WorkerVectorEnv:
    def make(lane: int, script: list) -> SubEnv:
        return SubEnv(UnevenEnv(lane, script), True)

    makers = [partial(make, lane, script) for lane, script in enumerate(SCRIPTS)]
    return WorkerVectorEnv(makers, 2, autoreset_mode=mode, in_turns=in_turns)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("make", "wait_for", "n_steps"),
    [
        (processes, 1, 1), (processes, 2, 3), (processes, 3, 1), (processes, 4, 1),
        (partial(groups, in_turns=False), 2, 3), (partial(groups, in_turns=True), 2, 3),
    ],
)  # fmt: skip
def test_processes_store_the_transitions_of_single_environments(mode, make, wait_for, n_steps):
    stream = EnvStream(make(mode), wait_for)
    replay, taken, episodes = stored(stream, 30, n_steps)
    lived = [
        lived_alone(UnevenEnv(lane, script), lane, taken[lane])
        for lane, script in enumerate(SCRIPTS)
    ]
    assert_same_windows(replay, [model for model, _ in lived])
    for lane, (_, ended) in enumerate(lived):
        assert [(total, length) for at, total, length in episodes if at == lane] == ended


def test_a_slow_environment_does_not_delay_the_others():
    makers = [partial(UnevenEnv, lane, script) for lane, script in enumerate(SCRIPTS)]
    stream = EnvStream(AsyncVectorEnv(makers), 1)
    _, taken, _ = stored(stream, 20)
    # On average, since another process may have to wait for a core.
    assert taken[0] < taken[1:].mean()


# -- EnvPool


def pool(num_envs, batch_size, seed) -> Any:
    return pytest.importorskip("envpool").make(
        "CartPole-v1", env_type="gymnasium", num_envs=num_envs, batch_size=batch_size, seed=seed,
        max_episode_steps=15,
    )  # fmt: skip


def lone_lanes(make_one, seed: int, taken, num_actions) -> Iterator[LaneModel]:
    """The transitions of one environment with the same actions in a plain loop (NEXT_STEP).

    make_one  (seed) to a vector environment of one lane
    """
    for lane, steps in enumerate(taken.tolist()):
        env, model = make_one(seed + lane), LaneModel()
        obs, _ = env.reset(seed=seed + lane)
        model.start(obs[0])
        made = 0
        while made < steps:
            action = scripted_action(lane, made) % num_actions
            obs, reward, terminated, truncated, _ = env.step(np.array([action]))
            if model.is_open:
                outcome = Outcome(action, float(reward[0]), bool(terminated[0]), bool(truncated[0]))
                model.add(outcome, obs[0].copy())
                made += 1
            else:
                model.start(obs[0].copy())
        env.close()
        yield model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of EnvPool's own making
@pytest.mark.parametrize("batch_size", [8, 4, 1])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_envpool_stores_exactly_the_transitions_that_it_made(batch_size, n_steps):
    stream = EnvStream(pool(8, batch_size, seed=5))
    assert stream.num_ready == batch_size
    replay, taken, episodes = stored(stream, 100, n_steps, num_actions=2)
    assert_same_windows(replay, list(lone_lanes(partial(pool, 1, 1), 5, taken, 2)))
    assert {length for _, _, length in episodes} > {15}  # some are cut, others fall earlier


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_partial_atari_batches_store_the_transitions_of_single_games():
    ale_py = pytest.importorskip("ale_py")

    def atari(num_envs, batch_size, seed) -> VectorEnv:
        return ale_py.AtariVectorEnv(
            "pong", num_envs=num_envs, batch_size=batch_size, img_height=16, img_width=16,
            max_num_frames_per_episode=60, noop_max=0, repeat_action_probability=0.0,
        )  # fmt: skip

    stream = EnvStream(atari(4, 2, seed=0))
    assert stream.num_ready == 2
    replay, taken, episodes = stored(stream, 40, num_actions=4)
    assert_same_windows(replay, list(lone_lanes(partial(atari, 1, 1), 0, taken, 4)))
    assert len(episodes) >= 8


# -- runs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("vectorization", ["envpool", "workers", "async"])
def test_counts_stay_exact_in_a_run_that_waits_for_some(tmp_path, vectorization):
    if vectorization == "envpool":
        pytest.importorskip("envpool")
    made: list[tuple[int, int]] = []
    run = fastdqn.train(
        small(tmp_path, num_envs=6, vectorization=vectorization, env_batch_size=3),
        on_step=lambda progress, step: made.append((len(step.lanes), len(step.ended_lanes))),
    )
    steps, episodes = (sum(column) for column in zip(*made, strict=True))
    assert (run.summary["total_steps"], run.summary["episodes"]) == (steps, episodes)
    config = fastdqn.Config.from_json((run.folder / "config.json").read_text())
    assert config.total_timesteps is not None
    due = config.total_timesteps // config.train_frequency
    assert run.summary["updates"] == due - config.learning_starts // config.train_frequency
    rows = (run.folder / "episodes.csv").read_text().splitlines()[1:]
    assert len(rows) == episodes
    assert sum(int(row.split(",")[-1]) for row in rows) <= steps


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_partial_batches_are_rejected_for_evaluation(tmp_path):
    eval_envs = pool(4, 2, seed=1)
    with pytest.raises(fastdqn.ConfigError, match="a step of eval_envs returns 2 of 4 env"):
        fastdqn.train(small(tmp_path), pool(4, 4, seed=0), eval_envs=eval_envs)
    with pytest.raises(ValueError, match="a step returns 2 of 4 environments"):
        fastdqn.evaluate(lambda obs: np.zeros(len(obs), np.int64), eval_envs, episodes=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_environments_with_open_calls_cannot_be_started_again():
    envs = pool(4, 2, seed=1)
    EnvStream(envs).start()
    with pytest.raises(fastdqn.EnvError, match="2 sub-environments are still stepping"):
        EnvStream(envs).start()


@pytest.mark.slow
def test_a_run_reports_that_its_order_depends_on_time(tmp_path, capsys):
    config = small(tmp_path, num_envs=4, vectorization="async", env_batch_size=2)
    fastdqn.train(config.replace(total_timesteps=200), quiet=False)
    assert "a step waits for 2 of 4 environments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "wait_for", "says"),
    [
        (
            lambda: EnvRecipe("CartPole-v1").make(4),
            2,
            "these environments return 4 results at a time",
        ),
        (
            lambda: EnvRecipe("CartPole-v1", "async").make(
                2, autoreset_mode=AutoresetMode.DISABLED
            ),
            1,
            r"an autoreset mode other than AutoresetMode\.DISABLED",
        ),
    ],
)
def test_unsupported_partial_batches_are_rejected(make, wait_for, says):
    envs = make()
    with pytest.raises(ValueError, match=says):
        EnvStream(envs, wait_for)
    envs.close()


@pytest.mark.slow
def test_unsupported_envpool_options_are_rejected():
    pytest.importorskip("envpool")
    for recipe, says in (
        (EnvRecipe("CartPole-v7", "envpool"), "did you mean CartPole-v"),
        (EnvRecipe("LunarLanderX-v9", "envpool"), "EnvPool has no"),
        (EnvRecipe("CartPole-v1", "envpool", {}, ("TimeLimit",)), "takes no wrapper"),
        (EnvRecipe(lambda: gymnasium.make("CartPole-v1"), "envpool"), "by id only"),
    ):
        with pytest.raises(ValueError, match=says):
            recipe.make(2)


@pytest.mark.slow
def test_a_run_with_partial_envpool_batches_resumes(tmp_path):
    """They can be reset only while no call is open, so only once."""
    pytest.importorskip("envpool")
    run = fastdqn.train(
        small(tmp_path, total_timesteps=300, env_batch_size=2, vectorization="envpool")
    )
    more = fastdqn.resume(run.folder, total_timesteps=600)
    assert more.summary["total_steps"] >= 600
