"""Checkpointer: when a run takes checkpoints, and when it takes none."""

import errno
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import fastdqn
from fastdqn.checkpoints import write_checkpoint
from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.loader import checkpoint_names, load_checkpoint
from fastdqn.cli import main as cli
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.disk_error_policy import EndRun
from fastdqn.training.checkpointer import Checkpointer
from fastdqn.training.loop import DivergedError
from helpers.loop import small


class Sink:
    """Sink that writes nothing. The test sets whether it is busy."""

    ready, newest_steps, error = True, None, None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def wants_all_rows(self, *args) -> bool:
        return False

    def write(self, *args) -> None:
        raise AssertionError("nothing is written in these tests")

    def close(self) -> None:
        pass


def checkpointer(sink: Any, every_steps=None, every_seconds=None, clock=lambda: 0.0):
    none = np.zeros(1, np.int64)
    disk = EndRun(lambda line: None)
    return Checkpointer(
        sink, every_steps, every_seconds, True, lambda: None, none, lambda: sink.ready, clock, disk
    )


def test_a_checkpoint_is_due_by_steps_and_stays_due_while_another_is_written():
    sink = Sink()
    checkpoints = checkpointer(sink, every_steps=10)
    assert not checkpoints.due(0, 9, 9)
    sink.ready = False
    assert not checkpoints.due(9, 11, 11)
    sink.ready = True
    assert checkpoints.due(11, 12, 12)


def test_a_checkpoint_is_due_by_time():
    now = [100.0]
    checkpoints = checkpointer(Sink(), every_seconds=5.0, clock=lambda: now[0])
    now[0] = 104.9
    assert not checkpoints.due(0, 1, 1)
    now[0] = 105.0
    assert checkpoints.due(1, 2, 2)


def test_one_checkpoint_at_most_is_taken_at_a_step_count():
    """A call in which all environments are reset makes no step."""
    sink = Sink()
    sink.newest_steps = 10  # pyright: ignore[reportAttributeAccessIssue]
    checkpoints = checkpointer(sink, every_steps=5)
    assert not checkpoints.due(4, 10, 10)
    assert checkpoints.due(10, 11, 11)


def test_a_failed_write_is_raised_at_the_next_iteration():
    sink = Sink()
    sink.error = WriteError("cannot write")  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(WriteError):
        checkpointer(sink).due(0, 1, 1)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line_and_an_intact_checkpoint(
    tmp_path, monkeypatch, capsys
):
    written = write_checkpoint.write_new

    def write_new(path, parts):
        if checkpoint_names(tmp_path / "run"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return written(path, parts)

    monkeypatch.setattr(write_checkpoint, "write_new", write_new)
    words = ["--total-timesteps", "100000", "--checkpoint-frequency", "500", "--quiet"]
    assert cli.main(["train", "cartpole", *words, "--run-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / 'run' / 'checkpoints'}")
    assert "No space left on device" in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: cannot write")
    assert summary["total_steps"] < 100_000
    found = load_checkpoint(tmp_path / "run")
    assert list(found.segments())
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "latest", "segments", found.name,
    ]  # fmt: skip


class Dawdling(gymnasium.Env):
    """Environment whose clock advances in a reset as in a step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    now: ClassVar = [0.0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.now[0] += 1.0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        self.now[0] += 1.0
        return np.zeros(2, np.float32), 1.0, self.t == 2, False, {}


@pytest.mark.slow
def test_an_iteration_of_resets_alone_takes_no_second_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: Dawdling.now[0])
    write = CheckpointWriter.write
    monkeypatch.setattr(
        CheckpointWriter, "write", lambda self, *args: (write(self, *args), self.close())
    )
    config = small(tmp_path, total_timesteps=12, num_envs=1, learning_starts=6)
    run = fastdqn.train(config, Dawdling, checkpoint_seconds=0.5)
    assert run.summary["exit_reason"] == "budget spent"


def names_and_weights(run: Path) -> dict[str, bool]:
    """Returns whether the weights of each checkpoint are finite."""
    return {
        name: bool(np.isfinite(load_checkpoint(run, name).weights["weights"]).all())
        for name in checkpoint_names(run)
    }


@pytest.mark.slow
@pytest.mark.parametrize("log_frequency", [2_900, 30])
def test_a_run_that_diverged_keeps_its_last_good_checkpoint(tmp_path, log_frequency):
    """It diverges between two rows of metrics, where the loss is not checked."""
    config = small(
        tmp_path, total_timesteps=3_000, checkpoint_frequency=250, log_frequency=log_frequency,
        learning_starts=600, learning_rate=1e30,
    )  # fmt: skip
    with pytest.raises(DivergedError):
        fastdqn.train(config)
    found = names_and_weights(tmp_path / "run")
    assert found
    assert all(found.values())
