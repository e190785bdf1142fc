"""Disk errors during a run: warnings, retries, and which files are complete afterwards."""

import contextlib
import errno
import json
import os
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

import fastdqn
from fastdqn.checkpoints.loader import checkpoint_names, load_checkpoint
from fastdqn.cli import main as cli
from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.files.disk_error_policy import ContinueRun, Keeper
from fastdqn.logging.recorder import RunRecorder
from helpers.loop import small


class Disk:
    """Makes one call of an operation on a file fail, or all from one call on.

    log  (operation, file) of every call below folder, temporary names and numbers left out
    """

    def __init__(self, patch, folder: Path, fails: tuple[str, str] | None = None, error=errno.EIO):
        self.folder, self.fails, self.error, self.log = folder, fails, error, []
        self.paths: dict[int, str] = {}
        for name in ("open", "write", "fsync", "rename", "replace", "link"):
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, real):
        def operation(*args, **kwargs):
            below = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            place = self._place(args[0], below)
            # A folder that is opened on the way to a file is no operation on a file.
            is_folder = name == "open" and args[1] & os.O_DIRECTORY
            if place and not is_folder:
                self.log.append((name, place))
                if (name, place) == self.fails:
                    self.fails = None
                    raise OSError(self.error, os.strerror(self.error))
            return real(*args, **kwargs)

        return operation

    def _place(self, at, below) -> str:
        path = os.readlink(f"/proc/self/fd/{at}") if isinstance(at, int) else str(at)
        if below is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{below}"), path)
        if not path.startswith(str(self.folder)):
            return ""
        parts = path.removeprefix(str(self.folder)).split("/")
        return "/".join(re.sub(r"^\.tmp-(old-)?|\.?\d+$", "", part) for part in parts)


def config(tmp_path, **options):
    return small(
        tmp_path, total_timesteps=300, checkpoint_frequency=100, eval_frequency=150,
        log_frequency=80, eval_max_steps=9, **options,
    )  # fmt: skip


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def check_whole(folder: Path) -> None:
    """Returns the summary of a finished run."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"] == "budget spent"
    assert summary["eval"] is not None
    steps = [json.loads(line)["step"] for line in lines(folder / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert len([step for step in steps if step >= summary["total_steps"]]) >= 1
    episodes = lines(folder / "episodes.csv")[1:]
    assert len(episodes) == summary["episodes"]
    assert [int(line.split(",")[0]) for line in episodes] == list(range(1, len(episodes) + 1))
    kinds = [json.loads(line)["kind"] for line in lines(folder / "eval.jsonl")]
    assert kinds.count("eval") >= 2
    assert load_checkpoint(folder).steps == summary["total_steps"]
    assert list(load_checkpoint(folder).segments())
    fastdqn.load_policy(folder)
    fastdqn.load_policy(folder, weights="last")
    assert not list(folder.rglob(".tmp-*"))


def operations(tmp_path) -> list[tuple[str, str]]:
    """Returns every operation on every kind of file, except those that create the folder."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, tmp_path / "run")
        fastdqn.train(config(tmp_path))
    made = ("/config.json", "/requested.json", "/command.txt", "/system.json", "/lock")
    kinds = [each for each in dict.fromkeys(disk.log) if not each[1].startswith(made)]
    # Of those of checkpoints a few: a test of their own lets each fail.
    inside = [each for each in kinds if each[1].startswith("/checkpoints/")]
    return [each for each in kinds if each not in inside] + inside[::8]


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_a_run_that_continues_writes_all_files_after_any_single_failure(tmp_path):
    (tmp_path / "all").mkdir()
    found = operations(tmp_path / "all")
    assert len(found) > 20
    survived = 0
    for number, each in enumerate(found):
        folder = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, folder / "run", each)
            said = ""
            try:
                fastdqn.train(config(folder, on_disk_error="continue"))
            except (WriteError, fastdqn.ConfigError) as error:
                said = str(error)
        assert disk.fails is None, each
        if said:  # at the beginning, or at the end: there is no later
            assert str(folder) in said
            assert "\n" not in said
        else:
            check_whole(folder / "run")
            survived += 1
    assert survived > len(found) * 2 / 3


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_a_run_that_stops_reports_the_failure_and_its_checkpoint_loads(tmp_path):
    (tmp_path / "all").mkdir()
    for number, each in enumerate(operations(tmp_path / "all")[::4]):
        folder = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(fastdqn.ConfigError):
            Disk(patch, folder / "run", each, errno.EDQUOT)
            with pytest.raises((WriteError, fastdqn.ConfigError), match=r"cannot write|uota"):
                fastdqn.train(config(folder))
        if checkpoint_names(folder / "run") and (folder / "run/checkpoints/latest").exists():
            assert list(load_checkpoint(folder / "run").segments())


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Sets a real file size limit: a write beyond it fails halfway."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_failed_writes_are_retried_once_the_disk_has_room(tmp_path):
    with contextlib.ExitStack() as limited:

        def limit_for_a_while(progress, step):
            if progress.steps == 4:
                limited.enter_context(files_of_at_most(700))
            if progress.steps >= 240:
                limited.close()

        run = fastdqn.train(config(tmp_path, on_disk_error="continue"), on_step=limit_for_a_while)
    check_whole(run.folder)
    warnings = run.summary["warnings"]
    refused = [line for line in warnings if line.endswith("continues and retries later")]
    for file in ("checkpoints", "metrics.jsonl", "best.safetensors"):
        places = [line for line in refused if f"{run.folder}/{file}" in line]
        (line,) = [line for line in places if "File too large" in line]
        assert "bytes free, " in line
        assert line.split("; ")[1].endswith(" needed")
    for what in ("the checkpoint", "metrics.jsonl", "best.safetensors"):
        assert warnings.count(f"{what} can be written again") == 1


@pytest.mark.slow
def test_a_disk_that_stays_full_is_an_error_at_the_end(tmp_path, capsys):
    words = ["--total-timesteps", "2000", "--checkpoint-frequency", "500", "--quiet"]
    with files_of_at_most(4_000):
        code = cli.main(
            ["train", "cartpole", *words, "--on-disk-error", "continue", "--run-dir",
             str(tmp_path / "run")]
        )  # fmt: skip
    assert code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write {tmp_path / 'run'}")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: cannot write")
    assert summary["total_steps"] >= 2_000


@pytest.mark.usefixtures("waits")
def test_by_default_the_first_failed_write_ends_the_run(tmp_path):
    with files_of_at_most(4_000), pytest.raises(WriteError, match=r"File too large; .* needed$"):
        fastdqn.train(config(tmp_path))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["total_steps"] < 300


def test_lines_that_failed_stay_buffered_and_none_is_torn(tmp_path, monkeypatch):
    file = AppendFile(tmp_path / "a.jsonl")
    file.write("one\n")
    file.flush()
    real = os.write

    def tear(fd, data):
        if len(data) > 2:
            return real(fd, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", tear)
        for line in ("two\n", "three\n"):
            file.write(line)
            with pytest.raises(WriteError, match=r"a\.jsonl: No space .* bytes free, [0-9]+ need"):
                file.flush()
            assert (tmp_path / "a.jsonl").read_text() == "one\n"
    file.write("four\n")
    file.close()
    assert (tmp_path / "a.jsonl").read_text() == "one\ntwo\nthree\nfour\n"


def test_the_buffer_of_failed_lines_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdqn.files.append_file._MAX_BUFFERED", 50)
    file = AppendFile(tmp_path / "a.jsonl")

    def refuse(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        for number in range(30):
            file.write(f"{number:09d}\n")
            with pytest.raises(WriteError):
                file.flush()
    assert file.dropped == 25
    file.close()
    assert [int(line) for line in lines(tmp_path / "a.jsonl")] == list(range(25, 30))


def test_a_newer_file_replaces_a_pending_one(tmp_path, monkeypatch):
    lines = []
    keeper, path = Keeper(ContinueRun(lines.append)), tmp_path / "best"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: 1 / 0 if fd < 0 else _refuse())
        for content in ("old", "new"):
            keeper.save(path, lambda path, content=content: write_whole(path, content))
        keeper.retry()
    assert len(lines) == 1
    assert not path.exists()
    keeper.retry()
    assert path.read_text() == "new"
    assert lines[1:] == ["best can be written again"]


def _refuse():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("waits")
def test_a_resumed_run_has_the_rows_that_a_failed_checkpoint_did_not_keep(tmp_path, monkeypatch):
    """The second checkpoint fails halfway. The third must contain its rows, too."""
    real, failed = os.rename, []

    def fail_once(source, target, **options):
        if target == "00000002" and not failed:
            failed.append(target)
            raise OSError(errno.EIO, "Input/output error")
        return real(source, target, **options)

    monkeypatch.setattr(os, "rename", fail_once)
    run = fastdqn.train(config(tmp_path, on_disk_error="continue"))
    assert failed
    rows = [0] * 4
    for segment in load_checkpoint(run.folder).segments():
        assert (segment.first <= rows).all()  # no gap
        rows = segment.last.tolist()
    assert np.sum(rows) >= 300


def test_a_run_fails_if_its_last_weights_cannot_be_written(tmp_path, monkeypatch):
    def refuse(self):
        raise WriteError("cannot write policy.safetensors: no")

    monkeypatch.setattr(RunRecorder, "save_last", refuse)
    with pytest.raises(WriteError):
        fastdqn.train(config(tmp_path))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "failed: cannot write policy.safetensors: no"
