"""The file of a sweep: two that write it, one that dies of it, disks that refuse it."""

import json
import os

import pytest

from fastdqn.cli import sweep, sweep_storage
from fastdqn.config.presets import PRESETS
from fastdqn.files.atomic_write import WriteError
from helpers.sweeps import run, trained

pytest.importorskip("optuna")
__all__ = ["trained"]


def lines(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "s.journal").read_text().splitlines()]


def earlier(folder, name: str, **changes) -> str:
    """Begins the file of a sweep of cartpole, as versions before ranges wrote it."""
    searched = {
        "learning_rate": [1e-4, 1e-2],
        "batch_size": [32, 64, 128, 256],
        "train_frequency": [1, 2, 4, 8, 16, 20],
        "target_network_frequency": [250, 500, 1000, 2000, 5000],
        "gamma": [0.98, 0.99, 0.995, 0.999],
        "n_steps": [1, 3, 5],
        "exploration_fraction": [0.05, 0.1, 0.2, 0.4],
        "exploration_final_eps": [0.01, 0.05, 0.1],
        "hidden_sizes": ["64 64", "128 128", "256 256"],
    }
    config = json.loads(PRESETS["cartpole"].replace(seed=1_001, **changes).to_json())
    fixed = {option: value for option, value in config.items() if option not in searched}
    identity = {"version": 1, "seeds": 1, "searched": searched, "config": fixed}
    first = {"learning_rate": 8e-3, "batch_size": 64, "train_frequency": 20}
    path = folder / "sweeps" / name
    sweep_storage._begin(path, identity, first)
    return str(path)


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
    name = "CartPole-v1__cartpole.journal"
    (tmp_path / "sweeps" / f"{name}.lock").symlink_to(f"sweeps/{name}")
    assert sweep.sweep("cartpole", ["--trials", "1", "--seeds", "1"]) == 0
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


def test_the_file_is_named_by_environment_and_preset(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--trials", "1", "--seeds", "1", "--quiet"]
    sweep.sweep("cartpole", words)
    sweep.sweep("cartpole", ["--env-id", "Acrobot-v1", *words])
    sweep.sweep("CartPole-v1", words)
    names = [f"{name}.journal" for name in (
        "Acrobot-v1__cartpole", "CartPole-v1__cartpole", "CartPole-v1__default",
    )]  # fmt: skip
    assert sorted(os.listdir("sweeps")) == names
    assert f"trials: {tmp_path / 'sweeps' / names[2]}\n" in capsys.readouterr().out


def test_the_file_of_an_earlier_version_is_continued(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = earlier(tmp_path, "cartpole.journal")
    for count in ("1", "2"):
        sweep.sweep("cartpole", ["--trials", count, "--seeds", "1"])
        out = capsys.readouterr().out.splitlines()
        name = "CartPole-v1__cartpole.journal"
        assert out[0] == f"continuing {path}, which a new sweep would name {name}"
        assert out[-1] == f"trials: {path}"
    assert len(trained) == 2
    assert os.listdir("sweeps") == ["cartpole.journal"]


@pytest.mark.parametrize("content", [None, b"", b"no journal\n"])
def test_the_file_of_another_sweep_is_not_continued(trained, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweeps" / "cartpole.journal"
    earlier(tmp_path, "cartpole.journal", num_envs=8)
    if content is not None:
        path.write_bytes(content)
    before = path.read_bytes()
    sweep.sweep("cartpole", ["--trials", "1", "--seeds", "1"])
    assert (tmp_path / "sweeps" / "CartPole-v1__cartpole.journal").exists()
    assert path.read_bytes() == before


def test_a_new_file_is_preferred_to_one_of_an_earlier_version(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep.sweep("cartpole", ["--trials", "1", "--seeds", "1"])
    path = earlier(tmp_path, "cartpole.journal")
    size = os.path.getsize(path)
    sweep.sweep("cartpole", ["--trials", "2", "--seeds", "1"])
    assert len(trained) == 2
    assert os.path.getsize(path) == size
