"""A run that was stopped or killed, and resumed, is the run that never was."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_loop import small
from test_own import Far

import fastdqn
from fastdqn import build, session
from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.engine import local
from fastdqn.engine.checkpoints import components
from fastdqn.plain import StateError
from fastdqn.record import shelf
from fastdqn.record.console import Silent
from fastdqn.record.layout import CheckpointError

TIMED = ("time/", "charts/SPS")


def rows(folder: Path) -> list[dict]:
    """Metric rows without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(TIMED)}
        for line in lines
    ]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("policy.safetensors", "best.safetensors", "episodes.csv", "eval.jsonl"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(one) == rows(other)
    ours, theirs = (json.loads((each / "summary.json").read_text()) for each in (one, other))
    for key in ("total_steps", "episodes", "updates", "eval", "exit_reason"):
        assert ours[key] == theirs[key], key


ASKED = threading.Event()


@pytest.fixture(autouse=True)
def asked_by_the_test(monkeypatch):
    """A run is asked to stop by ASKED: a signal is heard by a thread, sooner or later."""

    @contextlib.contextmanager
    def listen():
        ASKED.clear()
        yield ASKED.is_set

    monkeypatch.setattr(session, "stop_on_signals", listen)


def stopping_at(steps: int) -> Callable:
    """A hook that asks the run to stop once so many steps are made."""

    def on_step(progress, step):
        if progress.steps >= steps:
            ASKED.set()

    return on_step


def nothing(progress, step) -> None:
    """A hook costs a phase of its own: both runs have one."""


VARIANTS = {
    "native": {},
    "sync": {"vectorization": "sync", "n_steps": 3, "tau": 0.1},
    "masks": {"env_id": "Taxi-v4", "eval_max_steps": 50},
    "ladder": {"exploration": "ladder", "double": False, "dueling": False},
    "normalized": {"normalize_observation": True, "normalize_reward": True, "n_steps": 2},
    "wrapped": {"env_id": "MountainCar-v0", "wrapper": ("TimeAwareObservation",)},
    "episodes": {"total_timesteps": None, "total_episodes": 40, "exploration_decay": 0.9},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop_at", [30, 437])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, variant, stop_at):
    options = {"eval_frequency": 250, "log_frequency": 90, **VARIANTS[variant]}
    config = small(tmp_path, total_timesteps=1_000).replace(**options)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(stop_at))
    assert part.summary["exit_reason"] == "interrupted"
    assert stop_at <= part.summary["total_steps"] < stop_at + config.num_envs
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_goes_on_exactly(tmp_path, mode):
    def envs():
        return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 4, autoreset_mode=mode)

    config = small(tmp_path, n_steps=3, total_timesteps=900)
    whole = fastdqn.train(config, envs(), run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, envs(), run_dir=str(tmp_path / "part"), on_step=stopping_at(400))
    fastdqn.resume(part.folder, envs(), on_step=nothing)
    assert_same_run(whole.folder, part.folder)


def test_a_run_may_be_stopped_and_resumed_again_and_again(tmp_path):
    config = small(tmp_path, total_timesteps=1_000, eval_frequency=300, checkpoint_frequency=100)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(200))
    for at in (204, 417, 650, 980):
        part = fastdqn.resume(part.folder, on_step=stopping_at(at))
        assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


def test_being_stopped_inside_an_evaluation_repeats_it_and_its_rows(tmp_path):
    """The second evaluation of the run stops it from within: at its confirmation."""
    config = small(tmp_path, total_timesteps=800, eval_frequency=200, stop_at_return=1.0)
    seen = []

    def on_evaluation(steps, kind, evaluation):
        seen.append(kind)
        if seen == ["eval"]:
            ASKED.set()

    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"))
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_evaluation=on_evaluation)
    assert part.summary["exit_reason"] == "interrupted"
    assert seen == ["eval"]
    resumed = fastdqn.resume(part.folder, on_evaluation=on_evaluation)
    assert seen[1:3] == ["eval", "confirm"]
    assert resumed.summary["solved"]["steps"] == whole.summary["solved"]["steps"]
    assert_same_run(whole.folder, part.folder)


def test_environments_that_cannot_be_restored_are_reset_and_it_is_said(tmp_path, capsys):
    config = small(tmp_path, total_timesteps=900)
    part = fastdqn.train(config, Far, on_step=stopping_at(405))
    before = json.loads((part.folder / "summary.json").read_text())
    run = fastdqn.resume(part.folder, Far, quiet=False)
    assert "their open episodes end as truncated" in capsys.readouterr().out
    assert run.summary["total_steps"] >= 900 > before["total_steps"]
    lengths = [int(line.split(",")[4]) for line in episodes(part.folder)]
    assert set(lengths) == {10}  # the open ones are no episodes of their own


def episodes(folder: Path) -> list[str]:
    return (folder / "episodes.csv").read_text().splitlines()[1:]


def test_without_the_replay_learning_begins_again_and_catches_up_nothing(tmp_path, capsys):
    config = small(tmp_path, total_timesteps=1_200, checkpoint_replay=False)
    part = fastdqn.train(config, on_step=stopping_at(600))
    made = []
    run = fastdqn.resume(
        part.folder, quiet=False, on_update=lambda progress, *_: made.append(progress.steps)
    )
    assert "the replay was not saved" in capsys.readouterr().out
    starts, per = config.learning_starts, config.train_frequency
    assert made[0] >= part.summary["total_steps"] + starts
    first = part.summary["total_steps"] + starts
    assert len(made) == 1_200 // per - first // per
    assert run.summary["updates"] == part.summary["updates"] + len(made)
    assert not list((run.folder / "checkpoints" / "segments").iterdir())


def test_a_new_total_goes_on_and_schedules_keep_their_horizon(tmp_path):
    config = small(tmp_path, total_timesteps=500, exploration_fraction=1.0)
    run = fastdqn.train(config)
    longer = fastdqn.resume(run.folder, total_timesteps=900)
    assert longer.summary["total_steps"] >= 900
    explored = [row["rollout/exploration_rate"] for row in rows(run.folder)]
    assert explored[-1] == config.exploration_final_eps
    part = fastdqn.resume(run.folder, total_timesteps=1_300, on_step=stopping_at(1_000))
    assert part.summary["exit_reason"] == "interrupted"
    assert fastdqn.resume(run.folder).summary["total_steps"] >= 1_300  # the total is remembered


def test_a_run_that_is_over_is_left_as_it_is(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, total_timesteps=500))
    before = (run.folder / "policy.safetensors").read_bytes()
    again = fastdqn.resume(run.folder)
    assert again.summary["total_steps"] == run.summary["total_steps"]
    assert (run.folder / "policy.safetensors").read_bytes() == before


# -- the parts


def built(tmp_path, name: str, **overrides) -> build.Session:
    config = small(tmp_path, run_dir=str(tmp_path / name), **overrides)
    return build.build(config, lambda _: Silent())


EVERYTHING = {"normalize_observation": True, "normalize_reward": True, "eval_frequency": 200}


def names() -> list[str]:
    """Of every part that remembers; the list itself is engine.checkpoints.components()."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = built(Path(folder), "run", **EVERYTHING)
        found = list(components(made.run))
        made.close()
    return found


@pytest.mark.parametrize("name", names())
def test_each_part_takes_the_state_that_it_gives(tmp_path, name):
    one, two = (built(tmp_path, n, seed=s, **EVERYTHING) for n, s in (("a", 1), ("b", 2)))
    local.train(one.run)
    state = components(one.run)[name].state()
    other = components(two.run)[name]
    assert not same(state, other.state())
    if name == "recorder":  # its files are those of the folder
        for file in ("metrics.jsonl", "eval.jsonl", "episodes.csv"):
            shutil.copy(tmp_path / "a" / file, tmp_path / "b" / file)
        for file in other._files().values():  # pyright: ignore[reportAttributeAccessIssue]
            file.seek(0, 2)
    other.load_state(state)
    assert same(state, other.state())
    one.close()
    two.close()


@pytest.mark.parametrize("name", names())
def test_each_part_names_a_field_that_is_missing_or_of_another_kind(tmp_path, name):
    made = built(tmp_path, "a", **EVERYTHING)
    part = components(made.run)[name]
    for field in part.state().keys() - {"envs"}:  # of another kind: they are reset
        for wrong in ({}, {field: object()}):
            state = {k: v for k, v in part.state().items() if k != field} | wrong
            with pytest.raises(ValueError, match=field):
                part.load_state(state)
    made.close()


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_rows_come_back_from_segments_whatever_was_overwritten_between(tmp_path):
    from oracles import make_replay

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
    with pytest.raises(StateError, match="rows of lane 0 end at"):
        make_replay(3, rows=11, obs_shape=(2,)).load_state(replay.state(), segments[:1])


def test_a_file_that_lost_its_end_is_told_and_ends_no_resume(tmp_path, capsys):
    """A power cut may take what was written and not synced; so may a user with an editor."""
    run = fastdqn.train(small(tmp_path, total_timesteps=600, log_frequency=50))
    metrics = run.folder / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-20])
    assert main(["resume", str(run.folder), "--total-timesteps", "700"]) == 0
    assert "the end of metrics.jsonl was not restored" in capsys.readouterr().out
    lines = metrics.read_bytes().splitlines()
    assert lines[: len(whole.splitlines()) - 1] == whole.splitlines()[:-1]
    assert json.loads(lines[-1])["step"] >= 700


def test_going_back_cuts_files_only_once_the_older_checkpoint_is_the_latest(tmp_path, monkeypatch):
    """Killed between the two, the run can be resumed from either side."""
    config = small(tmp_path, total_timesteps=900, checkpoint_frequency=200, log_frequency=50)
    run = fastdqn.train(config, on_step=nothing)
    older, _ = sorted(p.name for p in (run.folder / "checkpoints").glob("step-*"))
    whole = (run.folder / "metrics.jsonl").read_bytes()

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    for place in ("fastdqn.record.shelf.set_latest", "fastdqn.record.shelf._sweep"):
        with monkeypatch.context() as patch:
            patch.setattr(place, kill)
            with pytest.raises(Killed):
                fastdqn.resume(run.folder, checkpoint=older)
        assert (run.folder / "metrics.jsonl").read_bytes() == whole
    assert (run.folder / "checkpoints" / "latest").read_text().strip() == older
    fastdqn.resume(run.folder, on_step=nothing)
    assert fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    assert_same_run(tmp_path / "whole", run.folder)


def test_what_a_resume_cuts_is_on_the_disk_before_the_checkpoint_that_says_where(
    tmp_path, monkeypatch
):
    synced, fsync, real = [], os.fsync, shelf.set_latest

    def note(fd):
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def check(*args):
        assert {"metrics.jsonl", "eval.jsonl", "episodes.csv"} <= set(synced)
        synced.clear()
        real(*args)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(shelf, "set_latest", check)
    fastdqn.train(small(tmp_path, total_timesteps=300))
    assert "metrics.jsonl" not in synced  # it was there, and is cleared again


def test_a_traceback_of_an_earlier_failure_goes_when_the_run_goes_on(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    (run.folder / "traceback.txt").write_text("of an earlier failure")
    fastdqn.resume(run.folder, total_timesteps=400)
    assert not (run.folder / "traceback.txt").exists()


# -- processes


def start_training(folder: Path, *words: str) -> subprocess.Popen:
    asked = [sys.executable, "-m", "fastdqn", "train", "cartpole", "--quiet", *words]
    return subprocess.Popen([*asked, "--run-dir", str(folder)])


WORDS = (
    "--total-timesteps", "60000", "--stop-at-return", "1000", "--checkpoint-frequency", "8000",
    "--eval-frequency", "20000", "--eval-episodes", "10", "--seed", "3",
)  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until a file is there: the process writes it, or ends."""
    while not path.exists():
        assert process.poll() is None, f"ended before {path} was there"
        os.sched_yield()


def test_a_run_killed_after_a_checkpoint_becomes_the_run_never_killed(tmp_path):
    assert start_training(tmp_path / "whole", *WORDS).wait() == 0
    killed = start_training(tmp_path / "part", *WORDS)
    wait_for(tmp_path / "part" / "checkpoints" / "latest", killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "part" / "summary.json").exists()
    assert main(["resume", str(tmp_path / "part"), "--quiet"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_sigterm_ends_a_run_with_a_checkpoint_and_code_130(tmp_path):
    process = start_training(tmp_path / "run", *WORDS)
    wait_for(tmp_path / "run" / "checkpoints" / "latest", process)
    process.terminate()
    assert process.wait(timeout=60) == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    latest = (tmp_path / "run" / "checkpoints" / "latest").read_text().strip()
    assert summary["exit_reason"] == "interrupted"
    assert int(latest.removeprefix("step-")) == summary["total_steps"]
    assert not (tmp_path / "run" / "lock").exists()


def test_a_run_in_progress_is_not_resumed_beside_itself(tmp_path, capsys):
    process = start_training(tmp_path / "run", *WORDS, "--total-timesteps", "10000000")
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "latest", process)
        assert main(["resume", str(tmp_path / "run")]) == 2
        assert f"process {process.pid}" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert main(["resume", str(tmp_path / "run"), "--total-timesteps", "1"]) == 2  # lock is stale
    assert "it is the new total" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "checkpoints"),
        (lambda run: (run / "config.json").unlink(), "config.json"),
        (
            lambda run: edit(run / "config.json", num_envs=8, buffer_size=999, hidden_sizes=[9]),
            "num_envs is 8 in config.json, the checkpoint's is 4",
        ),
    ],
)
def test_what_cannot_be_resumed_is_told_in_lines(tmp_path, capsys, spoil, says):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    spoil(run.folder)
    assert main(["resume", str(run.folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert says in lines[0] + lines[-1]
    assert len(lines) == (3 if "num_envs" in says else 1)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_option_of_the_run_cannot_be_changed_by_resume(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    assert main(["resume", str(run.folder), "--num-envs", "8"]) == 2
    assert "a run goes on with the options it had" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_other_offered(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=600, checkpoint_frequency=200))
    latest = (run.folder / "checkpoints" / "latest").read_text().strip()
    weights = run.folder / "checkpoints" / latest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors.*; checkpoint step-\d+ is whole"
    ):
        fastdqn.resume(run.folder)
    (other,) = {p.name for p in (run.folder / "checkpoints").glob("step-*")} - {latest}
    assert fastdqn.resume(run.folder, checkpoint=other).summary["total_steps"] >= 600


def test_loading_reaches_no_pickle(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=300, normalize_observation=True))
    code = f"""
import pickle
class Refused(Exception): pass
def refuse(*args, **kwargs): raise Refused("pickle was reached")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse
import numpy.lib.format as numpy_format, sys
from fastdqn.record.load_checkpoint import load_checkpoint
from pathlib import Path
found = load_checkpoint(Path({str(run.folder)!r}))
assert list(found.segments())
assert not {{"dill", "cloudpickle"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_carries_the_checkpoint_options():
    assert Config().checkpoint_seconds == 60.0
    assert Config(checkpoint_frequency=0).problems()
    assert Config(checkpoint_seconds=-1.0).problems()
