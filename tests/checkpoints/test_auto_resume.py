"""--resume auto: starts a run, continues it, and leaves a finished one unchanged."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

import fastdqn
from fastdqn import ConfigError
from fastdqn.checkpoints import background_writer
from fastdqn.checkpoints.loader import checkpoint_names
from fastdqn.cli.main import main
from helpers import resumed_runs
from helpers.loop import small
from helpers.resumed_runs import assert_same_run, nothing, stopping_at

asked_by_the_test = resumed_runs.asked_by_the_test


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Returns content and modification time of every file."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return {str(each): (each.read_bytes(), each.stat().st_mtime_ns) for each in files}


def train(config, **options):
    return fastdqn.train(config, resume="auto", on_step=nothing, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return fastdqn.train(small(folder, eval_frequency=300), on_step=nothing).folder


@pytest.mark.slow
def test_a_new_run_starts_and_a_finished_one_is_left_unchanged(tmp_path, whole):
    config = small(tmp_path, eval_frequency=300)
    first = train(config)
    assert_same_run(whole, first.folder)
    before = contents(first.folder)
    assert train(config) == first
    assert contents(first.folder) == before
    assert not (first.folder / "lock").exists()


def test_the_same_command_continues_an_interrupted_run(tmp_path, whole):
    config = small(tmp_path, eval_frequency=300)
    for steps in (1, 250, 500):
        stopped = fastdqn.train(config, resume="auto", on_step=stopping_at(steps))
        assert stopped.summary["exit_reason"] == "interrupted"
    assert_same_run(whole, train(config).folder)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "{", None])
def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path, whole, options):
    """Other files, such as the output of a scheduler, stay."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "requested.json", "metrics.jsonl", "episodes.csv", "system.json"):
        shutil.copy(whole / name, run)
    if options is not None:
        (run / "config.json").write_text(options)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / ".tmp-step-000000000000").mkdir()
    (run / "slurm.out").write_text("of the scheduler")
    (run / "lock").write_text("")
    (run / "wandb.json").write_text("{}")
    assert_same_run(whole, train(small(tmp_path, eval_frequency=300)).folder)
    assert (run / "slurm.out").read_text() == "of the scheduler"
    assert (run / "wandb.json").exists()  # names a run elsewhere, which goes on


def test_the_first_checkpoint_is_on_disk_before_the_first_step(tmp_path, monkeypatch):
    """Else a run that is killed after its first evaluation could neither begin nor continue."""
    run, reached = tmp_path / "run", threading.Event()
    write = background_writer.CheckpointWriter._work

    def late(self, snapshot):
        reached.wait(0.2)  # a slow disk
        write(self, snapshot)

    monkeypatch.setattr(background_writer.CheckpointWriter, "_work", late)
    seen = []

    def on_step(progress, step):
        seen.append((run / "checkpoints" / "latest").exists())
        return False

    fastdqn.train(small(tmp_path), on_step=on_step)
    assert seen == [True]


def test_a_first_checkpoint_that_did_not_become_the_latest_is_resumed(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "checkpoints" / "latest").unlink()
    train(small(tmp_path, eval_frequency=300))
    assert_same_run(whole, run)


def test_a_run_that_died_in_its_final_evaluation_repeats_it(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"exit_reason": "budget spent; the final evaluation has not ended", "eval": None}
    (run / "summary.json").write_text(json.dumps(summary))
    assert train(small(tmp_path, eval_frequency=300)).summary["eval"] is not None
    assert_same_run(whole, run)


def test_other_options_are_an_error_that_names_them(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    before = contents(run)
    with pytest.raises(ConfigError) as caught:
        train(small(tmp_path, eval_frequency=300, gamma=0.5, seed=7, total_timesteps=600))
    assert caught.value.lines == [
        f"seed is 7, and 1 in the run in {run}",
        f"gamma is 0.5, and 0.99 in the run in {run}",
        "total_timesteps is 600, and 700 in the run: it may only grow",
        "a run keeps its options: use another --run-dir",
    ]
    assert contents(run) == before


def test_an_auto_option_may_be_given_as_it_was_resolved(tmp_path):
    config = small(tmp_path, log_frequency=None)
    run = train(config)
    decided = json.loads((run.folder / "config.json").read_text())["log_frequency"]
    assert json.loads((run.folder / "requested.json").read_text())["log_frequency"] is None
    assert train(config.replace(log_frequency=decided)).summary == run.summary


def test_a_larger_total_continues_a_finished_run(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    config = small(tmp_path, eval_frequency=300, total_timesteps=900)
    assert train(config).summary["total_steps"] >= 900
    assert train(config).summary["total_steps"] >= 900
    with pytest.raises(ConfigError, match="total_timesteps is 800, and 900 in the run"):
        train(config.replace(total_timesteps=800))


def test_a_finished_run_whose_checkpoints_were_deleted_is_left_as_it_is(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    train(small(tmp_path, eval_frequency=300))
    with pytest.raises(ConfigError, match="has finished, and has no checkpoint to continue from"):
        train(small(tmp_path, eval_frequency=300, total_timesteps=900))
    assert contents(run) == before


@pytest.mark.parametrize(("make", "says"), [
    (lambda run: (run / "thesis.txt").write_text("x"), "contains 'thesis.txt' and no run"),
    (lambda run: (run.rmdir(), run.write_text("x")), "File exists"),
])  # fmt: skip
def test_a_folder_that_is_not_of_a_run_is_left_unchanged(tmp_path, make, says):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=says):
        train(small(tmp_path))
    assert contents(tmp_path) == before


def test_resume_auto_needs_a_folder():
    with pytest.raises(ConfigError, match="resume is auto: give the run folder with --run-dir"):
        fastdqn.train("cartpole", resume="auto")


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ConfigError(["refused"])

    monkeypatch.setattr(fastdqn.builders.build, "_make_agent", refuse)
    with pytest.raises(ConfigError, match="refused"):
        train(small(tmp_path / "new"))
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("waits")
def test_there_is_a_checkpoint_before_the_first_step(tmp_path):
    seen = []

    def on_step(progress, step):
        seen.append(checkpoint_names(tmp_path / "run"))
        return False

    fastdqn.train(small(tmp_path), on_step=on_step)
    assert seen == [["step-000000000000"]]


def test_the_command_line_reports_that_a_run_has_finished(tmp_path, whole, capsys, monkeypatch):
    config = fastdqn.Config.from_json((whole / "requested.json").read_text())
    run = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr("fastdqn.api.preset", lambda name: config)
    assert main(["train", "CartPole-v1", "--run-dir", str(run), "--resume", "auto"]) == 0
    said = capsys.readouterr().out
    assert f"the run in {run} has finished: there is nothing to do" in said
    assert "budget spent after" in said


def test_weights_of_a_run_without_a_checkpoint_are_not_removed(tmp_path):
    config = small(tmp_path, checkpoint_seconds=None)
    run = fastdqn.train(config)
    shutil.rmtree(run.folder / "checkpoints")
    summary = json.loads((run.folder / "summary.json").read_text()) | {"exit_reason": "interrupted"}
    (run.folder / "summary.json").write_text(json.dumps(summary))
    before = (run.folder / "policy.safetensors").read_bytes()
    with pytest.raises(fastdqn.ConfigError, match=r"no checkpoint .*, and policy\.safeten"):
        fastdqn.train(config, resume="auto")
    assert (run.folder / "policy.safetensors").read_bytes() == before


def test_the_folder_may_be_a_path(tmp_path):
    run_dir = tmp_path / "by path"
    run = fastdqn.train(small(tmp_path), resume="auto", run_dir=run_dir)
    assert run.folder == run_dir
    assert fastdqn.train(small(tmp_path), resume="auto", run_dir=run_dir).summary == run.summary
