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
        ("training", None, 14.75),  # of all four, which are few
        ("steps", {"steps": 1_000}, 1_000),
        ("steps", None, 6_000),  # twice its budget, although the other one ended the run
        ("episodes", {"steps": 1_000}, 40),
        ("episodes", None, 180),
    ],
)
def test_the_value_of_a_run(folder, name, solved, value):
    assert OBJECTIVES[name].measure(folder, SUMMARY | {"solved": solved}, BUDGETS) == value


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


def test_a_run_that_was_not_solved_says_so(tmp_path, monkeypatch, capsys):
    def train(config):
        return SimpleNamespace(summary=SUMMARY | {"exit_reason": "budget spent"})

    monkeypatch.setattr(sweep.api, "train", train)
    words = ["--objective", "episodes", "--total-episodes", "90", "--trials", "1"]
    assert run(tmp_path, *words) == 0
    row, best, *_ = capsys.readouterr().out.splitlines()
    assert "episodes until solved 180 (not solved)  180 (not solved)  --" in row
    assert best == "best of 1: episodes until solved 180 (not solved)"


def test_few_late_episodes_are_joined_by_earlier_ones(tmp_path):
    """Else only the short ones would count in a short run."""
    rows = [f"{i},{i},0,{i},1" for i in range(1, 31)]
    (tmp_path / "episodes.csv").write_text("\n".join(["episode,steps,lane,return,length", *rows]))
    value = OBJECTIVES["training"].measure(tmp_path, SUMMARY | {"total_steps": 30}, BUDGETS)
    assert value == pytest.approx((11 + 30) / 2)  # of the last 20


def test_a_run_without_an_episode_has_no_training_return(tmp_path):
    (tmp_path / "episodes.csv").write_text("episode,steps,lane,return,length\n")
    assert OBJECTIVES["training"].measure(tmp_path, SUMMARY, BUDGETS) is None


def test_objectives_have_files_of_their_own(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--trials", "1", "--seeds", "1", "--search", "gamma"]
    for objective in ("best", "steps"):
        assert main(["sweep", "cartpole", *words, "--objective", objective]) == 0
    assert sorted(path.name for path in (tmp_path / "sweeps").iterdir()) == [
        "CartPole-v1__cartpole.journal", "CartPole-v1__cartpole__steps.journal",
    ]  # fmt: skip
