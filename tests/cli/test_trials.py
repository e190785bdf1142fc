"""The file of a sweep: two that write it, one that dies of it, disks that refuse it."""

import json
import os

import pytest

from fastdqn.cli import sweep, sweep_storage
from fastdqn.files.atomic_write import WriteError
from helpers.sweeps import run, trained

pytest.importorskip("optuna")
__all__ = ["trained"]


def lines(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "s.journal").read_text().splitlines()]


@pytest.mark.slow
def test_two_that_begin_at_once_try_different_settings(trained, tmp_path, monkeypatch):
    others = [lambda: run(tmp_path, "--trials", "3", "--seeds", "1")]

    def open_both(*about):
        study = sweep_storage.open_trials(*about)
        if others:  # it opens the same file, and is done before this one begins
            assert others.pop()() == 0
        return study

    monkeypatch.setattr(sweep, "open_trials", open_both)
    assert run(tmp_path, "--trials", "6", "--seeds", "1") == 0
    assert len(trained) == 6
    assert len({config.learning_rate for config in trained}) == 6


@pytest.mark.slow
def test_a_line_without_an_end_is_cut_off_before_the_next(trained, tmp_path):
    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 0
    with open(tmp_path / "s.journal", "ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert run(tmp_path, "--trials", "2", "--seeds", "1") == 0
    assert run(tmp_path, "--trials", "3", "--seeds", "1") == 0
    assert len(trained) == 3
    assert all("op_code" in line for line in lines(tmp_path))


@pytest.mark.slow
def test_a_lock_that_was_left_holds_nobody_up(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "cartpole.journal.lock").symlink_to("sweeps/cartpole.journal")
    assert sweep.sweep("cartpole", ["--trials", "1", "--seeds", "1"]) is None
    assert len(trained) == 1


@pytest.mark.parametrize("empty", [True, False])
def test_a_file_that_could_not_be_begun_is_as_it_was(trained, tmp_path, monkeypatch, empty):
    import optuna

    def killed(*_):
        raise KeyboardInterrupt

    path = tmp_path / ("a.journal" if empty else "new/folder/a.journal")
    if empty:
        path.touch()
    monkeypatch.setattr(optuna.Study, "set_user_attr", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep_storage.open_trials(path, {"version": 1}, {})
    assert os.listdir(tmp_path) == (["a.journal"] if empty else [])
    monkeypatch.undo()
    assert sweep_storage.open_trials(path, {"version": 1}, {"gamma": 0.9}).user_attrs["fastdqn"]
    assert os.listdir(path.parent) == ["a.journal"]


@pytest.mark.slow
def test_a_full_disk_ends_a_sweep_by_one_line(trained, tmp_path, monkeypatch, capsys):
    import optuna.storages.journal as journal

    def full(*_):
        raise OSError(28, "No space left on device")

    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 0
    monkeypatch.setattr(journal.JournalFileBackend, "append_logs", full)
    assert run(tmp_path, "--trials", "2", "--seeds", "1") == 1
    path = tmp_path / "s.journal"
    assert capsys.readouterr().err == f"error: cannot write {path}: No space left on device\n"
    monkeypatch.undo()


@pytest.mark.slow
def test_output_that_cannot_be_written_is_not_taken_for_the_file(trained, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep, "print", full, raising=False)
    with pytest.raises(OSError, match="No space left") as caught:
        run(tmp_path, "--trials", "1", "--seeds", "1")
    assert not isinstance(caught.value, WriteError)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pipe", "x" * 300])
def test_what_can_be_no_file_is_refused(trained, tmp_path, capsys, name):
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    assert sweep_code(path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}")
    assert trained == []


def sweep_code(path) -> int:
    from fastdqn.cli.main import main

    return main(["sweep", "cartpole", "--out", str(path), "--trials", "1"])


def test_what_killed_sweeps_left_goes_and_what_others_hold_stays(tmp_path):
    path = tmp_path / "s.journal"
    path.touch()
    left, strange = tmp_path / ".s.journal.runs.x", tmp_path / ".t.journal.runs.x"
    for folder in (left, strange):
        (folder / "run").mkdir(parents=True)
    gone = tmp_path / ".s.journal.runs.y"  # by the time that it is looked at
    gone.symlink_to(tmp_path / "nowhere")
    with (
        sweep_storage.temporary_runs_folder(path) as others,
        sweep_storage.temporary_runs_folder(path) as ours,
    ):
        (ours / "run").mkdir()
        assert set(tmp_path.iterdir()) == {path, strange, gone, others, ours}
    assert set(tmp_path.iterdir()) == {path, strange, gone}


def test_a_file_with_an_old_name_of_an_option_is_continued(tmp_path):
    path = tmp_path / "a.journal"
    old, new = ({"config": {name: 0}} for name in ("restart_lanes", "restart_envs"))
    sweep_storage._begin(path, {"version": 1, **old}, {"gamma": 0.9})
    study = sweep_storage.open_trials(path, {"version": 1, **new}, {"gamma": 0.9})
    assert len(study.trials) == 1
