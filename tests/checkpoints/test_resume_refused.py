"""Runs that cannot be resumed: one-line errors."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import fastdqn
from fastdqn import resuming
from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.cli.main import main
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import env_state
from helpers.checkpoints import edit_manifest
from helpers.loop import small


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "checkpoints"),
        (lambda run: (run / "config.json").unlink(), "config.json: No such file"),
        (
            lambda run: (run / "config.json").write_bytes(b"\xff\xfe{"),
            "config.json is not UTF-8 text",
        ),
        (
            lambda run: (run / "config.json").write_text("[" * 200_000),
            "run/config.json: is not JSON: maximum recursion",
        ),
        (lambda run: make_pipe(run / "config.json"), "config.json: is not a regular file"),
        (
            lambda run: edit(run / "config.json", num_envs=8, buffer_size=999, hidden_sizes=[9]),
            "buffer_size is 999 in config.json and 500 in the checkpoint",
        ),
    ],
)
def test_a_run_that_cannot_be_resumed_is_a_one_line_error(tmp_path, capsys, spoil, says):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    spoil(run.folder)
    assert main(["resume", str(run.folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert says in lines[0] + lines[-1]
    assert len(lines) == (2 if "buffer_size" in says else 1), lines


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl", "episodes.csv"])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_a_one_line_error(tmp_path, capsys, name):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    make_pipe(run.folder / name)
    words = ["resume", str(run.folder), "--total-timesteps", "400"]
    assert main(words) == 1
    (run.folder / name).unlink()
    (run.folder / name).mkdir()
    assert main(words) == 1
    for line in capsys.readouterr().err.splitlines():
        assert line == f"error: cannot write {run.folder / name}: is not a regular file"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy.safetensors", "best.safetensors", "config.json"])
def test_eval_of_a_pipe_is_a_one_line_error(tmp_path, capsys, name):
    run = fastdqn.train(small(tmp_path, total_timesteps=300, eval_frequency=100))
    make_pipe(run.folder / name)
    weights = "last" if name[0] == "p" else "best"
    assert main(["eval", str(run.folder), "--episodes", "1", "--weights", weights]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a regular file" in line


@pytest.mark.slow
@pytest.mark.parametrize("place", ["payload", "deep.payload"])
def test_code_inside_a_run_folder_is_not_executed(tmp_path, monkeypatch, capsys, place):
    """A run folder from another person contains data, not programs."""
    sent = f"sent_{place.replace('.', '_')}"  # a name that no test has imported yet
    run = fastdqn.train(small(tmp_path, total_timesteps=300, run_dir=str(tmp_path / sent)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = tmp_path / "ran"
    file = run.folder.joinpath(*place.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    for each in (file, file.parent / "__init__.py"):
        each.write_text(f"open({str(ran)!r}, 'w')")
    name = f"{sent}.{place}:CartPole-v1"
    edit(run.folder / "config.json", env_id=name)
    edit_manifest(
        run.folder, run.summary["total_steps"],
        lambda manifest: manifest["config"]["config"].update(env_id=name),
    )  # fmt: skip
    for words in (["resume"], ["eval", "--episodes", "1"]):
        assert main([words[0], str(run.folder), *words[1:]]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "inside the run folder, which must not contain code" in line
    assert not ran.exists()


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_option_of_the_run_cannot_be_changed_by_resume(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    assert main(["resume", str(run.folder), "--n-steps", "8"]) == 2
    assert "n_steps cannot change when a run is resumed" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_another_suggested(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=600, checkpoint_frequency=200))
    latest = (run.folder / "checkpoints" / "latest").read_text().strip()
    weights = run.folder / "checkpoints" / latest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors.*; checkpoint step-\d+ is intact"
    ):
        fastdqn.resume(run.folder)
    (other,) = {p.name for p in (run.folder / "checkpoints").glob("step-*")} - {latest}
    assert fastdqn.resume(run.folder, checkpoint=other).summary["total_steps"] >= 600


@pytest.mark.slow
def test_the_checkpoint_is_read_under_the_lock(tmp_path, monkeypatch):
    """Otherwise another process could resume from it, and delete it, in between."""
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    load = resuming.load_checkpoint

    def look(place, name):
        assert (run.folder / "lock").exists()
        monkeypatch.setattr(resuming, "load_checkpoint", load)
        with pytest.raises(ConfigError, match="is using this run"):
            fastdqn.resume(run.folder)
        return load(place, name)

    monkeypatch.setattr(resuming, "load_checkpoint", look)
    assert fastdqn.resume(run.folder, total_timesteps=400).summary["total_steps"] >= 400
    assert not (run.folder / "lock").exists()


def test_a_folder_that_is_missing_or_not_of_a_run_is_left_unchanged(tmp_path, capsys):
    assert main(["resume", str(tmp_path / "nowhere")]) == 2
    assert main(["resume", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "is not a folder: give the folder of a run" in lines[0]
    assert "there is no checkpoint yet" in lines[1]
    assert not list(tmp_path.iterdir())


class Own(gymnasium.Env):
    """Environment with a state. The tests set what get_state() and set_state() accept."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    extra: ClassVar[Any] = None
    error: ClassVar[Exception | None] = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t >= 10, False, {}

    def get_state(self):
        return {"t": self.t, "extra": self.extra}

    def set_state(self, state):
        if self.error is not None:
            raise self.error
        self.t = state["t"]


@pytest.mark.slow
def test_an_environment_that_rejects_its_state_is_a_one_line_error(tmp_path, monkeypatch):
    run = fastdqn.train(small(tmp_path, total_timesteps=300), Own)
    kept = sorted((run.folder / "checkpoints").iterdir())
    monkeypatch.setattr(Own, "error", RuntimeError("version 2 does not read this"))
    with pytest.raises(CheckpointError, match=r"stream: envs.*Own\.set_state\(\): .*version 2"):
        fastdqn.resume(run.folder, Own, total_timesteps=400)
    assert sorted((run.folder / "checkpoints").iterdir()) == kept


def nested(depth: int) -> dict:
    return {"a": nested(depth - 1)} if depth else {}


TOO_MUCH = {
    "bits": 1 << 200,
    "deep": nested(40),
    "deep, with what is around it": nested(28),
    "lists": [[[0] * 2] * 2] * (1 << 12),
    "dimensions": np.zeros((1,) * 40),
    "long": "x" * (1 << 17),
    "wide": np.array([1], np.longdouble),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TOO_MUCH)
def test_a_state_that_cannot_be_stored_counts_as_unreadable(tmp_path, monkeypatch, capsys, case):
    monkeypatch.setattr(env_state, "_MAX_TEXT_BYTES", 1 << 17)
    monkeypatch.setattr(Own, "extra", TOO_MUCH[case])
    run = fastdqn.train(small(tmp_path, total_timesteps=120, num_envs=2), Own)
    longer = fastdqn.resume(run.folder, Own, total_timesteps=130, quiet=False)
    assert longer.summary["exit_reason"] == "budget spent"
    assert "the environments could not be restored" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("key", ["replay", "learner", "stream", "progress", "phase_seconds"])
def test_a_checkpoint_without_a_part_is_an_error_that_names_it(tmp_path, key):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    found = load_checkpoint(run.folder)
    # Without rows, as there are none in the checkpoint that is written here.
    state = {name: part for name, part in {**found.state, "replay": None}.items() if name != key}
    writer = CheckpointWriter(run.folder, found.config, found)
    writer.write(found.steps + 1, state, found.weights)
    writer.close()
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        fastdqn.resume(run.folder, total_timesteps=400)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("progress", {"now": 1 << 61}, "progress: now is"),
        ("progress", {"before": 0}, "must be at most 4 steps apart"),
        ("progress", {"steps": 10**9}, "progress: steps is 1000000000"),
        ("phase_seconds", {"env": -1.0}, "env is -1 seconds"),
        ("phase_seconds", {"env": 1e300}, "env is 1e[+]300 seconds"),
    ],
)
def test_impossible_numbers_are_rejected(tmp_path, part, changes, says):
    """The checksum is valid. Such a run would make updates forever and ignore signals."""
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    steps = run.summary["total_steps"]
    edit_manifest(run.folder, steps, lambda manifest: manifest["state"][part].update(changes))
    with pytest.raises(CheckpointError, match=says):
        fastdqn.resume(run.folder, total_timesteps=400)


def test_config_contains_the_checkpoint_options():
    assert Config().checkpoint_seconds == 60.0
    assert Config(checkpoint_frequency=0).problems()
    assert Config(checkpoint_seconds=-1.0).problems()
