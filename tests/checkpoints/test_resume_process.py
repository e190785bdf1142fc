"""resume() of real processes: killed, stopped by a signal, and still running."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fastdqn
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.cli.main import main
from helpers.loop import small
from helpers.resumed_runs import assert_same_run


def start_training(folder: Path, *words: str) -> subprocess.Popen:
    asked = [sys.executable, "-m", "fastdqn", "train", "cartpole", "--quiet", *words]
    return subprocess.Popen([*asked, "--run-dir", str(folder)])


WORDS = (
    "--total-timesteps", "30000", "--stop-at-return", "1000", "--checkpoint-frequency", "4000",
    "--eval-frequency", "10000", "--eval-episodes", "10", "--seed", "3",
)  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until the process writes a file, or ends."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            raise AssertionError(f"ended before {path} was there")


@pytest.mark.slow
def test_a_run_killed_after_a_checkpoint_resumes_exactly(tmp_path):
    whole = ("--run-dir", str(tmp_path / "whole"))
    assert main(["train", "cartpole", "--quiet", *WORDS, *whole]) == 0
    killed = start_training(tmp_path / "part", *WORDS)
    wait_for(tmp_path / "part" / "checkpoints" / "latest", killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "part" / "summary.json").exists()
    assert main(["resume", str(tmp_path / "part"), "--quiet"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "part")


@pytest.mark.slow
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


ASYNC = ("--vectorization", "async", "--num-envs", "2", "--total-timesteps", "10000000",
         "--checkpoint-frequency", "500", "--eval-frequency", "0", "--stop-at-return", "None",
         "--quiet")  # fmt: skip


def start_async(folder: Path) -> subprocess.Popen:
    """A run with two worker processes, in a new process group."""
    words = [sys.executable, "-m", "fastdqn", "train", "CartPole-v1", *ASYNC]
    process = subprocess.Popen(
        [*words, "--run-dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    wait_for(folder / "checkpoints" / "latest", process)
    return process


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_a_run_with_workers_in_order(tmp_path):
    process = start_async(tmp_path / "run")
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "interrupted"
    assert load_checkpoint(tmp_path / "run").steps == summary["total_steps"]


@pytest.mark.slow
def test_workers_end_quietly_with_a_parent_that_is_killed(tmp_path):
    process = start_async(tmp_path / "run")
    process.kill()
    told = process.communicate(timeout=60)  # the end of its output: nobody holds it open
    assert told == (b"", b"")
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_running_run_is_not_resumed(tmp_path, capsys):
    process = start_training(tmp_path / "run", *WORDS, "--total-timesteps", "10000000")
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "latest", process)
        assert main(["resume", str(tmp_path / "run")]) == 2
        assert f"process {process.pid}" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / "lock").exists()  # stale now: whoever wrote it is gone
    steps = load_checkpoint(tmp_path / "run").steps
    words = ["--total-timesteps", str(steps + 1), "--quiet"]
    assert main(["resume", str(tmp_path / "run"), *words]) == 0


@pytest.mark.slow
def test_loading_never_unpickles(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=300, normalize_observation=True))
    code = f"""
import pickle
class Refused(Exception): pass
def refuse(*args, **kwargs): raise Refused("pickle was reached")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse
import numpy.lib.format as numpy_format, sys
from fastdqn.checkpoints.loader import load_checkpoint
from pathlib import Path
found = load_checkpoint(Path({str(run.folder)!r}))
assert list(found.segments())
assert not {{"dill", "cloudpickle"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
