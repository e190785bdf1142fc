"""Files of a run: links, moved folders, a changed working directory, and size limits."""

import errno
import json
import os
import resource
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import gymnasium
import pytest

import fastdqn
from fastdqn import ConfigError
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.checkpoints.network_weights import WeightsError, load_weights
from fastdqn.cli import doctor
from fastdqn.cli import main as cli
from fastdqn.files import atomic_write, durable_write
from fastdqn.files.atomic_write import WriteError, read_lines, read_text
from helpers.loop import small


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    config = small(tmp_path_factory.mktemp("trained"), total_timesteps=400, eval_frequency=200)
    return fastdqn.train(config).folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


APPENDED = ("metrics.jsonl", "episodes.csv", "eval.jsonl")
REPLACED = ("summary.json", "policy.safetensors", "best.safetensors", "traceback.txt")


@pytest.mark.parametrize("name", [*APPENDED, "checkpoints"])
def test_a_link_in_place_of_a_file_is_rejected_and_not_followed(run, tmp_path, name):
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = tree(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises((WriteError, CheckpointError), match=f"{name}.*is a symbolic link"):
        fastdqn.resume(run, total_timesteps=500)
    assert (tree(outside) if outside.is_dir() else outside.read_bytes()) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLACED)
def test_a_link_in_place_of_an_atomically_written_file_is_replaced(run, tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("as it was")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    fastdqn.resume(run, total_timesteps=500)
    assert outside.read_text() == "as it was"
    assert not (run / name).is_symlink()


@pytest.mark.parametrize("name", APPENDED)
def test_a_file_with_several_hard_links_is_not_appended_to(run, tmp_path, name):
    """Backups with hard links make such files."""
    os.link(run / name, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    with pytest.raises(WriteError, match=f"{name}: it has 2 hard links"):
        fastdqn.resume(run, total_timesteps=500)
    assert (tmp_path / "backup").read_bytes() == before


def test_a_segment_or_checkpoint_that_is_a_link_is_not_written_through(run, tmp_path):
    outside = tmp_path / "outside"
    (run / "checkpoints" / "segments").rename(outside)
    (run / "checkpoints" / "segments").symlink_to(outside)
    before = tree(outside)
    with pytest.raises(CheckpointError, match="is a symbolic link"):
        fastdqn.resume(run, total_timesteps=500)
    assert tree(outside) == before


def test_a_folder_of_weights_and_biases_that_is_a_link_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    from fastdqn.logging.wandb_run import WandbRun

    (run / "wandb").symlink_to(tmp_path)
    with pytest.raises(WriteError, match="wandb: it is not a folder, or is a symbolic link"):
        WandbRun(run, {})


def test_a_run_whose_folder_is_a_link_continues(run, tmp_path):
    """Users link the folder to store its files on another disk."""
    (tmp_path / "link").symlink_to(run)
    assert fastdqn.resume(tmp_path / "link", total_timesteps=500).summary["total_steps"] >= 500


@pytest.mark.slow
def test_a_run_continues_in_its_folder_after_it_is_moved_and_replaced(tmp_path):
    config = small(tmp_path, checkpoint_frequency=100, eval_frequency=200)
    whole = fastdqn.train(config.replace(run_dir=str(tmp_path / "whole")), on_step=lambda *_: None)
    second = []

    def on_step(progress, step):
        if progress.steps >= 300 and not second:
            (tmp_path / "run").rename(tmp_path / "moved")
            second.append(None)
            second[0] = fastdqn.train(config.replace(seed=2, total_timesteps=300)).folder
            second.append(tree(second[0]))

    first = fastdqn.train(config, on_step=on_step)
    assert tree(second[0]) == second[1]
    for name in ("policy.safetensors", "best.safetensors", "episodes.csv", "eval.jsonl"):
        assert (tmp_path / "moved" / name).read_bytes() == (whole.folder / name).read_bytes()
    assert load_checkpoint(tmp_path / "moved").steps == first.summary["total_steps"]
    assert first.summary["eval"] == whole.summary["eval"]
    assert not (tmp_path / "moved" / "lock").exists()


class Wanders(gymnasium.Env):
    """Changes the working directory, as a simulator may."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)
    to: Path

    def reset(self, *, seed=None, options=None):
        os.chdir(self.to)
        return 0, {}

    def step(self, action):
        return 1, 1.0, True, False, {}


@pytest.fixture
def wanders(tmp_path, monkeypatch):
    Wanders.to = tmp_path / "elsewhere"
    Wanders.to.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    gymnasium.register("Wanders-v0", lambda **_: Wanders())
    yield
    del gymnasium.registry["Wanders-v0"]


@pytest.mark.slow
@pytest.mark.usefixtures("wanders")
def test_an_environment_that_changes_the_working_directory_moves_no_file(tmp_path, monkeypatch):
    here = tmp_path / "here"

    def ask(*words: str) -> None:
        monkeypatch.chdir(here)
        assert cli.main(words) == 0

    config = small(tmp_path, run_dir="runs/a", env_id="Wanders-v0", checkpoint_frequency=100)
    run = fastdqn.train(config)
    assert run.folder == here / "runs/a"
    ways: list[tuple[str | None, Literal["never", "auto"]]] = [("runs/b", "auto"), (None, "never")]
    for run_dir, resume in ways:
        monkeypatch.chdir(here)
        other = fastdqn.train(config.replace(run_dir=run_dir), resume=resume)
        assert other.folder.is_relative_to(here / "runs")
    monkeypatch.chdir(here)
    assert fastdqn.resume("runs/a", total_timesteps=800).folder == here / "runs/a"
    ask("eval", "runs/a", "--episodes", "2", "--out", "eval.json")
    ask("tabular", "Wanders-v0", "--total-timesteps", "20", "--run-dir", "table", "--quiet")
    assert {each.name for each in here.iterdir()} == {"runs", "eval.json", "table"}
    assert list(Wanders.to.iterdir()) == []


@pytest.mark.usefixtures("wanders")
def test_the_file_of_a_sweep_is_at_the_given_path(tmp_path):
    pytest.importorskip("optuna")
    words = "--trials 1 --seeds 1 --total-timesteps 40 --eval-frequency 20 --eval-episodes 1"
    words += " --num-envs 2 --learning-starts 4 --batch-size 2 --search learning_rate --quiet"
    assert cli.main(["sweep", "Wanders-v0", *words.split(), "--out", "a.journal"]) == 0
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["a.journal"]
    assert list(Wanders.to.iterdir()) == []


def test_a_file_system_that_cannot_sync_folders_ends_no_run(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    run = fastdqn.train(small(tmp_path, checkpoint_frequency=100))
    assert run.summary["exit_reason"] == "budget spent"
    assert load_checkpoint(run.folder).steps == run.summary["total_steps"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, monkeypatch, code):
    def refuse(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        durable_write.sync_folder(tmp_path)


# What is read whole, and the commands that read it.
READ = {
    "config.json": ("doctor", "report", "eval", "resume"),
    "summary.json": ("doctor", "report"),
    "system.json": ("report",),
    "command.txt": ("report",),
    "metrics.jsonl": ("report",),
    "eval.jsonl": ("report",),
}
CASES = [(name, command) for name, commands in READ.items() for command in commands]


def huge(path: Path) -> None:
    """Makes a sparse file, which takes no space on the disk."""
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 33)


def endless(path: Path) -> None:
    """Makes a pipe without a writer."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [huge, endless])
@pytest.mark.parametrize(("name", "command"), CASES)
def test_a_huge_or_irregular_file_costs_neither_memory_nor_time(
    run, name, command, spoil, capsys, tmp_path
):
    spoil(run / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = [command, str(run), *(["--episodes", "1"] if command == "eval" else [])]
    words += ["--out", str(tmp_path / "a.html")] if command == "report" else []
    code = cli.main(words)
    output = capsys.readouterr()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    if (name, command) != ("summary.json", "doctor"):  # a run without one was killed
        assert code in (1, 2)
        assert name in output.out + output.err
    assert "Traceback" not in output.err


def test_a_line_that_never_ends_is_not_read_whole(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"{}\n" + bytes(atomic_write.MAX_LINE_BYTES + 1))
    lines = read_lines(path)
    assert next(lines) == b"{}\n"
    with pytest.raises(ValueError, match="a line exceeds 1,048,576 bytes"):
        next(lines)


def test_a_file_that_grows_while_it_is_read_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_write, "MAX_TEXT_BYTES", 4)
    (tmp_path / "a").write_text("12345")
    real = atomic_write.open_file

    def before_it_grew(*arguments):
        fd, info = real(*arguments)
        return fd, os.stat_result((*info[:6], 3, *info[7:]))

    monkeypatch.setattr(atomic_write, "open_file", before_it_grew)
    with pytest.raises(ValueError, match="exceeds 4 bytes: it grew while it was read"):
        read_text(tmp_path / "a")


def test_weights_larger_than_memory_are_rejected_before_reading(run):
    header = b'{"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (1 << 40, 1 << 42)
    path = run / "policy.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + (1 << 42))
    with pytest.raises(WeightsError, match=r"it has 4,398,\d+,\d+,\d+ bytes, but only .* are free"):
        load_weights(path)
    assert "bytes, but only" in dict(doctor.examine_run(run)[0])["policy.safetensors"]


def test_arrays_larger_than_memory_are_rejected_before_reading(run, monkeypatch):
    monkeypatch.setattr("fastdqn.checkpoints.open_safetensors.available_bytes", lambda: 120)
    monkeypatch.setattr("fastdqn.checkpoints.open_safetensors._SMALL", 100)
    with pytest.raises(CheckpointError, match=r"size: it has [\d,]+ bytes, but only 120 bytes of"):
        load_checkpoint(run)


def test_the_last_whole_line_of_a_long_file_is_found_from_its_end(tmp_path, monkeypatch):
    from fastdqn.logging import recorder

    monkeypatch.setattr(recorder, "_CHUNK", 4)
    for text, size in (("one\ntwo two two", 4), ("none at all", 0), ("one\ntwo\n", 8), ("", 0)):
        (tmp_path / "a").write_text(text)
        assert recorder._whole_lines(tmp_path / "a") == size


def test_runs_in_two_threads_have_separate_locks(tmp_path):
    found = {}

    def train(name: str) -> None:
        config = small(tmp_path, total_timesteps=200, run_dir=str(tmp_path / name))
        found[name] = fastdqn.train(config).summary["exit_reason"]

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"a": "budget spent", "b": "budget spent"}


def test_the_summary_is_written_after_the_final_evaluation(tmp_path, monkeypatch):
    seen = []

    def on_evaluation(steps, kind, evaluation):
        if kind == "final":
            seen.append(json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"])

    fastdqn.train(small(tmp_path), on_evaluation=on_evaluation)
    assert seen == ["budget spent; the final evaluation has not ended"]


def test_a_deleted_working_directory_is_a_one_line_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="the working directory does not exist"):
        fastdqn.train("cartpole")
