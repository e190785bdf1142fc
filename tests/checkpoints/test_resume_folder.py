"""Files of a resumed run: what is truncated or deleted, and in which order."""

import json
import os
from pathlib import Path

import pytest

import fastdqn
from fastdqn.checkpoints import store
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.cli.main import main
from helpers.checkpoints import edit_manifest
from helpers.loop import small
from helpers.resumed_runs import assert_same_run, nothing


def test_a_truncated_file_is_reported_and_the_run_resumes(tmp_path, capsys):
    """Data that was not synced may be lost in a power cut, and users edit files."""
    run = fastdqn.train(small(tmp_path, total_timesteps=600, log_frequency=50))
    metrics = run.folder / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-20])
    assert main(["resume", str(run.folder), "--total-timesteps", "700"]) == 0
    assert "the end of metrics.jsonl was not restored" in capsys.readouterr().out
    lines = metrics.read_bytes().splitlines()
    assert lines[: len(whole.splitlines()) - 1] == whole.splitlines()[:-1]
    assert json.loads(lines[-1])["step"] >= 700


def test_files_are_truncated_only_once_the_older_checkpoint_is_the_latest(tmp_path, monkeypatch):
    """If the process is killed in between, the run can still be resumed."""
    config = small(tmp_path, total_timesteps=900, checkpoint_frequency=200, log_frequency=50)
    run = fastdqn.train(config, on_step=nothing)
    older, _ = sorted(p.name for p in (run.folder / "checkpoints").glob("step-*"))
    whole = (run.folder / "metrics.jsonl").read_bytes()

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    for place in ("fastdqn.checkpoints.store.set_latest", "fastdqn.checkpoints.store._sweep"):
        with monkeypatch.context() as patch:
            patch.setattr(place, kill)
            with pytest.raises(Killed):
                fastdqn.resume(run.folder, checkpoint=older)
        assert (run.folder / "metrics.jsonl").read_bytes() == whole
    assert (run.folder / "checkpoints" / "latest").read_text().strip() == older
    fastdqn.resume(run.folder, on_step=nothing)
    assert fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    assert_same_run(tmp_path / "whole", run.folder)


def test_a_truncation_is_synced_before_the_checkpoint_that_records_it(tmp_path, monkeypatch):
    synced, fsync, real = [], os.fsync, store.set_latest

    def note(fd):
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def check(*args):
        assert {"metrics.jsonl", "eval.jsonl", "episodes.csv"} <= set(synced)
        synced.clear()
        real(*args)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(store, "set_latest", check)
    fastdqn.train(small(tmp_path, total_timesteps=300))
    assert "metrics.jsonl" not in synced  # it was there, and is cleared again


@pytest.mark.slow
def test_tensorboard_gets_the_step_of_a_resume(tmp_path):
    """Event files are not truncated. Readers drop later events by their step."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    config = small(tmp_path, total_timesteps=600, checkpoint_frequency=200, log_frequency=50)
    run = fastdqn.train(config, tensorboard=True)
    older, _ = sorted(p.name for p in (run.folder / "checkpoints").glob("step-*"))
    fastdqn.resume(run.folder, checkpoint=older)
    read = accumulator(str(run.folder)).Reload()
    steps = [event.step for event in read.Scalars("train/n_updates")]
    rows = (run.folder / "metrics.jsonl").read_text().splitlines()
    written = [row["step"] for row in map(json.loads, rows) if "train/n_updates" in row]
    assert steps == written


def test_a_rejected_resume_leaves_no_tensorboard_file(tmp_path):
    pytest.importorskip("tensorboard")
    run = fastdqn.train(small(tmp_path, total_timesteps=300, tensorboard=True))
    there = sorted(run.folder.iterdir())

    def change(manifest):
        manifest["state"]["progress"]["episodes"] = -1

    edit_manifest(run.folder, run.summary["total_steps"], change)
    with pytest.raises(CheckpointError, match="progress: episodes is -1"):
        fastdqn.resume(run.folder, total_timesteps=400)
    assert sorted(run.folder.iterdir()) == there


def test_unfinished_files_of_a_killed_process_are_deleted_on_resume(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    (run.folder / ".tmp-best.safetensors.7").write_bytes(b"half of it")
    fastdqn.resume(run.folder, total_timesteps=400)
    assert not list(run.folder.glob(".tmp-*"))


def test_a_traceback_of_an_earlier_failure_is_deleted_on_resume(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    (run.folder / "traceback.txt").write_text("of an earlier failure")
    fastdqn.resume(run.folder, total_timesteps=400)
    assert not (run.folder / "traceback.txt").exists()
