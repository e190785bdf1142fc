"""--store: the automatic choice, its memory, and errors before anything is allocated."""

import json
import re

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation

from fastdqn import Config
from fastdqn.bench import replay_speed
from fastdqn.bench.repeats import Effort
from fastdqn.builders import build, memory_estimate, preflight
from fastdqn.envs import EnvFacts
from fastdqn.logging.console import Silent
from fastdqn.replay import FrameStore, Ring, RowStore, rows_per_lane
from fastdqn.system.available_memory import available_bytes
from helpers.command_line import ask, container, refused
from helpers.loop import small
from helpers.setups import resolved, setup_of

PIXELS = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0, stack=4)
WHOLE = PIXELS._replace(stack=1)
STACKED = "train Acrobot-v1 --wrapper test_store_option:stacked --dry-run"


def stacked(env: gymnasium.Env) -> gymnasium.Env:
    return FrameStackObservation(env, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "stack", "resolved", "made", "rows"),
    [
        ("auto", 4, "frames", FrameStore, 100 + 1 + 3),
        ("auto", 1, "rows", RowStore, 100 + 1),
        ("rows", 4, "rows", RowStore, 100 + 1),
        ("frames", 4, "frames", FrameStore, 100 + 1 + 3),
    ],
)
def test_auto_stores_frames_if_a_stack_is_declared(tmp_path, asked, stack, resolved, made, rows):
    def make_lane() -> gymnasium.Env:
        env = gymnasium.make("CartPole-v1")
        return env if stack == 1 else FrameStackObservation(env, stack)

    config = small(tmp_path, buffer_size=400, store=asked)
    session = build.build(setup_of(config, make_lane), lambda _: Silent(), make_lane)
    session.close()
    replay = session.run.replay
    assert (session.config.store, type(replay.store)) == (resolved, made)
    assert (replay.ring.rows, replay.ring.stack) == (rows, stack if made is FrameStore else 1)
    batch = session.run.staging.host
    with_batch = replay.nbytes + sum(array.nbytes for array in batch if array is not None)
    facts = session.run.stream.facts
    assert (
        memory_estimate.replay_bytes(session.config, facts) == with_batch - replay.ring.added.nbytes
    )


def test_frames_are_rejected_without_a_declared_stack():
    (line,) = refused("train cartpole --store frames")
    assert "the environment declares no stacked frames" in line
    assert line.endswith("use --store rows")


def test_a_buffer_too_small_for_a_valid_stack_is_rejected():
    (line,) = refused(f"{STACKED} --num-envs 16 --buffer-size 143 --batch-size 8")
    assert "need at least 144, 9 rows each" in line
    code, _, _ = ask(*f"{STACKED} --num-envs 16 --buffer-size 144 --batch-size 8".split())
    assert code == 0


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_smallest_buffer_has_a_valid_stack_after_a_last_life_and_a_reset(n_steps):
    config = Config(num_envs=1, batch_size=1, n_steps=n_steps, hidden_sizes=(8,))
    least = next(
        size
        for size in range(2, 99)
        if not preflight.prepare(config.replace(buffer_size=size), PIXELS)[1]
    )
    ring = Ring(1, rows_per_lane(least, 1, n_steps, PIXELS.stack), PIXELS.stack)
    ring.add_starts([0])
    for step in range(50):
        ring.add_outcomes([0], [0], [0.0], [step == 49], [False])
    ring.add_starts([0, 0])
    for _ in range(n_steps + 1):
        newest = np.arange(ring.added[0] - ring.rows, ring.added[0])
        assert ring.is_valid(newest, n_steps).any()
        ring.add_outcomes([0], [0], [0.0], [False], [False])


def test_a_million_frames_need_seven_gigabytes_and_whole_observations_four_times_that():
    asked = Config(num_envs=8, buffer_size=10**6, batch_size=32)
    config = resolved(asked, PIXELS, weights=1)
    assert 7.0e9 < memory_estimate.replay_bytes(config, PIXELS) < 7.1e9
    assert 28.0e9 < memory_estimate.replay_bytes(config.replace(store="rows"), PIXELS) < 28.5e9
    assert memory_estimate.replay_bytes(resolved(asked, WHOLE, weights=1), WHOLE) > 28.0e9


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--no-checkpoint-replay", "--store rows"])
def test_the_suggested_size_fits_and_a_larger_one_does_not(tmp_path, monkeypatch, more):
    root = container(tmp_path / "root", 1 << 30)
    monkeypatch.setattr(memory_estimate, "available_bytes", lambda: available_bytes(root))
    words = f"{STACKED} --num-envs 16 --n-steps 3 {more} --buffer-size"
    (line,) = refused(f"{words} 1000000000")
    (fits,) = re.findall(r"The largest --buffer-size that fits is about (\d+)", line)
    assert ask(*words.split(), fits)[0] == 0
    (line,) = refused(f"{words} {int(1.01 * int(fits))}")
    assert "0.5 GiB are available" in line


def test_a_dry_run_prints_the_size_and_store_of_the_replay():
    code, out, _ = ask(*STACKED.split())
    assert code == 0
    assert re.search(r"^store +frames$", out, re.MULTILINE)
    assert re.search(r"replay buffer: [\d.,]+ MiB, each frame of a stack of 4 stored once, ", out)


@pytest.mark.slow
def test_stacks_are_measured_from_a_full_replay_beside_a_copy_of_as_many_bytes():
    facts = PIXELS._replace(obs_shape=(4, 6, 8))
    config = Config(num_envs=4, buffer_size=400, batch_size=8, learner="torch")
    config = resolved(config, facts, weights=100)
    figures = replay_speed.measure_replay(config, facts, Effort(0.001, 1, 0.0))
    sampled = [f for f in figures if f.key == "replay_sampled_bytes_per_second"]
    assert [f.of["batch_size"] for f in sampled] == [8, 32, 256] * 2
    assert {f.of["rows"] for f in sampled} == {4 * (100 + 1 + 3)}
    copied = [f.of.get("batch_size") for f in figures if f.key == "memcpy_bytes_per_second"]
    assert copied == [8, 32, 256, None]


def backwards(env: gymnasium.Env) -> gymnasium.Env:
    """Oldest last, so that no observation repeats what the one before it should have left."""
    return gymnasium.wrappers.TransformObservation(
        stacked(env), lambda obs: np.asarray(obs)[::-1].copy(), stacked(env).observation_space
    )


def test_an_invalid_stack_ends_the_run_in_one_line(tmp_path):
    command = (
        "train Acrobot-v1 --wrapper test_store_option:backwards --total-timesteps 200 --batch-size "
        f"8 --learning-starts 50 --buffer-size 200 --eval-frequency 0 --run-dir {tmp_path / 'run'}"
    )
    code, _, lines = ask(*command.split())
    assert code == 1
    (line,) = lines
    assert line.endswith("frames cannot be stored once. Use --store rows")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["exit_reason"].startswith("failed")
