"""WandbRun, with a fake wandb package."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

import fastdqn
from fastdqn.files.atomic_write import WriteError
from fastdqn.logging.wandb_run import WandbRun
from helpers.command_line import ask


class Recorder:
    """Fake for the result of wandb.init()."""

    def __init__(self, id="abc"):
        self.rows, self.finished = [], 0
        self.id, self.project, self.entity = id, "fastdqn", None
        self.config = SimpleNamespace(update=lambda *args, **kwargs: self.seen.append(args[0]))
        self.seen = []

    def log(self, row, step=None):
        self.rows.append((step, row))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """Replaces the package with a fake that records the arguments of init()."""
    fake = SimpleNamespace(run=None, made=Recorder(), arguments={}, problem=None, __spec__=object())

    def init(**arguments):
        fake.arguments.update(arguments)
        if fake.problem is not None:
            raise fake.problem
        return fake.made

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: fake if name == "wandb" else find_spec(name)
    )
    return fake


def train(tmp_path):
    return fastdqn.train(
        "CartPole-v1", total_timesteps=300, learning_starts=100, hidden_sizes=(8,), num_envs=2,
        eval_frequency=150, eval_episodes=2, run_dir=str(tmp_path / "run"), tensorboard=False,
        wandb=True, checkpoint_seconds=None,
    )  # fmt: skip


def test_wandb_gets_every_row_and_the_options_and_is_finished(wandb, tmp_path):
    run = train(tmp_path)
    assert wandb.arguments["dir"] == run.folder
    assert wandb.arguments["config"] == json.loads((run.folder / "config.json").read_text())
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [{"step": step, **row} for step, row in wandb.made.rows] == rows
    steps = [step for step, _ in wandb.made.rows]
    assert steps == sorted(steps)  # it refuses to go back
    assert {"rollout/ep_rew_mean", "charts/SPS", "eval/mean_reward"} <= {
        key for r in rows for key in r
    }
    assert wandb.made.finished == 1


@pytest.mark.slow
def test_an_active_wandb_run_gets_the_rows_and_stays_open(wandb, tmp_path):
    """The caller logs to it before and after, with other steps."""
    wandb.run = Recorder("theirs")
    run = train(tmp_path)
    assert wandb.arguments == {}
    assert wandb.run.finished == 0
    assert wandb.run.seen == [json.loads((run.folder / "config.json").read_text())]
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    expected = [{**row, "global_step": row["step"]} for row in rows]
    for row in expected:
        del row["step"]
    assert wandb.run.rows == [(None, row) for row in expected]


@pytest.mark.slow
def test_a_resumed_run_continues_its_wandb_run(wandb, tmp_path):
    run = train(tmp_path)
    assert "resume" not in wandb.arguments
    wandb.arguments.clear()
    fastdqn.resume(run.folder, total_timesteps=400)
    assert wandb.arguments["id"] == "abc"
    assert wandb.arguments["project"] == "fastdqn"
    assert wandb.arguments["resume"] == "allow"
    assert "entity" not in wandb.arguments
    assert wandb.made.finished == 2


@pytest.mark.parametrize("text", ["", "[]", '{"id": 3}', "{}"])
def test_an_invalid_wandb_file_is_a_one_line_error(wandb, tmp_path, text):
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(WriteError, match="delete it to start a new one"):
        WandbRun(tmp_path, {})
    assert wandb.arguments == {}


def test_an_error_of_wandb_is_one_line_with_a_fix(wandb, tmp_path):
    wandb.problem = RuntimeError("api_key not configured\n(no-tty)")
    with pytest.raises(WriteError) as caught:
        train(tmp_path)
    assert str(caught.value) == (
        "Weights & Biases did not start: api_key not configured (no-tty). WANDB_MODE=offline needs "
        "no account"
    )


def test_wandb_without_the_extra_is_an_error(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name)
    )
    code, _, lines = ask("train", "cartpole", "--wandb")
    assert (code, lines) == (2, ["error: wandb is not installed: pip install 'fastdqn[wandb]'"])
