"""Objectives of a sweep, measured on the files of a run."""

import json
from types import SimpleNamespace

import pytest

from fastdqn.cli import sweep
from fastdqn.cli.main import main
from fastdqn.cli.sweep_objective import OBJECTIVES
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config

pytest.importorskip("optuna")

BUDGETS = Config(total_timesteps=3_000, total_episodes=90)
SUMMARY = {"total_steps": 1_000, "episodes": 40, "solved": None, "eval": {"mean_return": 7.5}}


@pytest.fixture
def folder(tmp_path):
    rows = [("eval", 2.0), ("eval", 6.0), ("final", 7.5)]
    lines = [json.dumps({"step": 1, "kind": kind, "mean_return": mean}) for kind, mean in rows]
    (tmp_path / "eval.jsonl").write_text("\n".join(lines) + "\n")
    episodes = [
        (1, 100, 0, 1.0, 5),
        (2, 900, 1, 50.0, 5),
        (3, 901, 0, 3.0, 5),
        (4, 1_000, 1, 5.0, 9),
    ]
    text = "episode,steps,lane,return,length\n"
    (tmp_path / "episodes.csv").write_text(
        text + "".join(",".join(map(str, row)) + "\n" for row in episodes)
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "solved", "value"),
    [
        ("best", None, 7.5),
        ("curve", None, 4.0),
        ("training", None, 4.0),  # of the episodes that ended after step 900
        ("steps", {"steps": 1_000}, 1_000),
        ("steps", None, 6_000),  # twice its budget, although the other one ended the run
        ("episodes", {"steps": 1_000}, 40),
        ("episodes", None, 180),
    ],
)
def test_the_value_of_a_run(folder, name, solved, value):
    assert OBJECTIVES[name].measure(folder, SUMMARY | {"solved": solved}, BUDGETS) == value


def test_a_run_without_a_late_episode_has_no_training_return(folder):
    summary = SUMMARY | {"total_steps": 5_000}
    assert OBJECTIVES["training"].measure(folder, summary, BUDGETS) is None


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: runs of a smaller learning rate have more episodes."""
    configs = []

    def train(config):
        configs.append(config)
        episodes = round(1 / config.learning_rate) + config.seed - sweep.FIRST_SEED
        return SimpleNamespace(
            summary=SUMMARY | {"episodes": episodes, "solved": {}, "exit_reason": "solved"}
        )

    monkeypatch.setattr(sweep.api, "train", train)
    return configs


def run(tmp_path, *words):
    words = ["--search", "learning_rate=1e-3..1e-2", "--out", str(tmp_path / "s.journal"), *words]
    return main(["sweep", "cartpole", *words])


def test_fewer_episodes_are_better(trained, tmp_path, capsys):
    words = ["--total-episodes", "900", "--trials", "8"]
    assert run(tmp_path, "--objective", "episodes", *words) == 0
    *lines, best, command, _ = capsys.readouterr().out.splitlines()
    largest = max(trained, key=lambda config: config.learning_rate).learning_rate
    assert command.endswith(f"cartpole --total-episodes 900 --learning-rate {largest:g}")
    assert best == f"best of 8: episodes until solved {round(1 / largest) + 0.5:g}"
    assert any("episodes until solved 125  126  --learning-rate 0.008" in line for line in lines)
    assert not any(config.final_evaluation for config in trained)


def test_a_file_of_another_objective_is_refused(trained, tmp_path, capsys):
    assert run(tmp_path, "--objective", "steps", "--trials", "1") == 0
    assert run(tmp_path, "--trials", "1") == 2
    line = "is a sweep of objective steps, this is best: use another --out"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--objective", "curve", "--eval-frequency", "0"],
            "eval_frequency is 0: a sweep compares",
        ),
        (
            ["--objective", "curve"],
            "stop_at_return is 475, which ends the better runs early, and --objective curve "
            "compares whole runs: add --stop-at-return None",
        ),
        (["--objective", "training"], "add --stop-at-return None"),
        (
            ["--objective", "episodes"],
            "--objective episodes needs --total-episodes: an unsolved run",
        ),
        (
            ["--objective", "training", "--offline", "--prefill", "runs/a"],
            "offline trains without episodes, and --objective training compares them",
        ),
        (
            ["--objective", "steps", "--stop-at-return", "None"],
            "--objective steps needs --stop-at-return, which ends a run",
        ),
    ],
)
def test_what_an_objective_needs(trained, tmp_path, capsys, words, line):
    assert run(tmp_path, *words) == 2
    assert line in capsys.readouterr().err
    assert not trained


def test_training_returns_need_no_evaluation(tmp_path, capsys):
    words = ["--eval-frequency", "0", "--stop-at-return", "None", "--total-timesteps", "20000"]
    words += ["--objective", "training", "--trials", "2", "--seeds", "1"]
    assert run(tmp_path, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("  training return " in line for line in lines) == 2
    assert PRESETS["cartpole"].eval_frequency > 0
