"""Runs of `fastdqn tabular`: their files, and errors."""

import json
import re

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces

import fastdqn
from fastdqn import tabular_run
from fastdqn.checkpoints.network_weights import WeightsError
from fastdqn.cli.main import main
from fastdqn.tabular.config import TableConfig
from fastdqn.tabular.files import read_table_config

QUICK = ["--env-kwargs", "is_slippery=False", "--total-timesteps", "4000", "--eval-frequency",
         "2000", "--eval-episodes", "8", "--num-envs", "8"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "run"
    words = ["tabular", "FrozenLake-v1", *QUICK, "--quiet", "--run-dir", str(folder)]
    assert main(words) == 0
    return folder


def lines_of(capsys, *words) -> list[str]:
    """The error lines of a rejected command."""
    assert main([*words]) == 2
    return capsys.readouterr().err.splitlines()


def test_a_run_writes_the_usual_files(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.json", "command.txt", "system.json", "metrics.jsonl", "episodes.csv",
        "eval.jsonl", "policy.safetensors", "best.safetensors", "summary.json",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["exit_reason"] == "budget spent"
    assert summary["updates"] == summary["total_steps"] >= 4000
    assert summary["eval"]["episodes"] == 8
    config = json.loads((run / "config.json").read_text())
    assert (config["learning_rate"], config["final_learning_rate"]) == (0.2, 0.002)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in rows) > 1
    kinds = [json.loads(line)["kind"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert kinds == ["eval", "eval", "final"]


def test_its_best_table_is_evaluated_loaded_and_not_resumed(run, capsys):
    assert main(["eval", str(run), "--episodes", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 4
    policy = fastdqn.load_policy(run)
    assert policy(np.eye(16, dtype=np.uint8)).shape == (16,)
    best, last = (
        safetensors.numpy.load_file(run / f"{name}.safetensors")["table"]
        for name in ("best", "policy")
    )
    assert best.shape == last.shape == (16, 4)
    (line,) = lines_of(capsys, "resume", str(run))
    assert "is a tabular run, which has no checkpoints" in line
    (line,) = lines_of(capsys, "eval", str(run), "--env-id", "Taxi-v4")
    assert "has observations (500,) and 6 actions, and the weights were trained on (16,)" in line


@pytest.mark.slow
def test_equal_seeds_give_equal_tables_and_others_do_not(run, tmp_path):
    config = read_table_config(run)
    told = [
        tabular_run.train(config.replace(run_dir=str(tmp_path / str(seed)), seed=seed)).folder
        for seed in (1, 2)
    ]
    saved = [(path / "policy.safetensors").read_bytes() for path in (run, *told)]
    assert saved[0] == saved[1] != saved[2]


def test_the_size_is_printed_before_anything_is_made(capsys, tmp_path):
    words = ["--dry-run", "--run-dir", str(tmp_path / "run")]
    assert main(["tabular", "cartpole", "--bins", "20", *words]) == 0
    told = capsys.readouterr().out
    assert "20^4 = 160,000 states x 2 actions in float32: 1.2 MiB" in told
    assert "number 3: 20 bins from -4 to 4, default" in told
    assert not (tmp_path / "run").exists()


class Screen(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (210, 160, 3), np.uint8)
    action_space = spaces.Discrete(6)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((210, 160, 3), np.uint8), {}


@pytest.mark.slow
def test_a_huge_table_is_rejected_in_favor_of_a_network(capsys):
    gymnasium.register("TabularScreen-v0", lambda **kwargs: Screen(**kwargs))
    try:
        (line,) = lines_of(capsys, "tabular", "TabularScreen-v0", "--bins", "128")
    finally:
        del gymnasium.registry["TabularScreen-v0"]
    assert "210 x 160 x 3 pixels of 128 colours: 128^100800, about 10^212406 states" in line
    assert line.endswith("use a network: fastdqn train TabularScreen-v0")


def test_a_table_larger_than_memory_is_rejected_with_the_bins_that_fit(capsys, monkeypatch):
    monkeypatch.setattr(tabular_run, "available_bytes", lambda: 1 << 20)
    (line,) = lines_of(capsys, "tabular", "CartPole-v1")
    assert "4 numbers in 20 bins: 20^4 = 160,000 states" in line
    assert "use at most --bins 14" in line  # 14^4 states of 2 actions, thrice: 922 kB


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["frozenlake"], ["did you mean FrozenLake-v1"]),
        (["MountainCar-v0", "--bins", "2", "3", "4"], ["bins has 3 numbers: give one"]),
        (
            ["FrozenLake-v1", "--bin", "3", "--gamma", "x", "--learning-rate", "2"],
            ["'--bin': did you mean --bins", "--gamma is 'x'", "learning_rate is 2.0"],
        ),
        (
            ["CartPole-v1", "--wrapper", "TimeAwareObservation", "--bins", "4", "--seed", "-1"],
            ["seed is -1", "numbers 1, 3 .* set --low", "numbers 1, 3 .* set --high"],
        ),
        (["Pendulum-v1", "--low", "nan"], ["low is nan", "is continuous"]),
        (
            ["FrozenLake-v1", "--total-timesteps", "None", "--total-episodes", "9",
             "--final-learning-rate", "0.1", "--exploration-decay", "0.5"],
            ["final_learning_rate is reached at total_timesteps, which is None"],
        ),
        (["FrozenLake-v1", "--preset", "cartpole"], ["--preset only labels a run"]),
    ],
)  # fmt: skip
def test_mistakes_are_reported_together_in_one_line_each(capsys, words, expected):
    lines = lines_of(capsys, "tabular", *words)
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line


def broken(run, tmp_path, **changed):
    """A copy of a run's table with other parts."""
    arrays = safetensors.numpy.load_file(run / "policy.safetensors") | changed
    told = {"format": 1, "table": {"obs_shape": [16], "num_actions": 4}}
    path = tmp_path / "table.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays, {"fastdqn": json.dumps(told)}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"table": np.zeros((15, 4), np.float32)}, "the table has shape"),
        ({"table": np.full((16, 4), np.nan, np.float32)}, "NaN or infinity"),
        ({"table": np.zeros((16, 4), np.int64)}, "dtype int64"),
        ({"column": np.array([1])}, "outside the observation"),
        ({"column": np.array([-1])}, "outside the observation"),
        ({"width": np.array([1 << 40])}, "outside the observation"),
        ({"bins": np.array([17])}, "differ from its width"),
        ({"bins": np.array([0])}, "not positive"),
        ({"low": np.array([np.nan])}, "not finite, or low"),
        ({"low": np.array([[0.0]])}, "low has shape"),
        ({"more": np.zeros(1)}, "not the arrays of a Q-table"),
    ],
)
def test_an_inconsistent_file_is_rejected(run, tmp_path, changed, line):
    with pytest.raises(WeightsError, match=line):
        fastdqn.load_policy(broken(run, tmp_path, **changed))
    assert fastdqn.load_policy(broken(run, tmp_path))(np.eye(16)).shape == (16,)


def test_options_are_restored_from_their_file():
    config = TableConfig(bins=(2, 3), low=(0.0, -1.0), env_kwargs={"size": 3}, wrapper=("A", "B"))
    assert TableConfig.from_json(config.to_json()) == config


@pytest.mark.slow
def test_frozen_lake_is_solved_as_well_as_it_can_be(tmp_path):
    """The greedy policy's exact success in 100 steps, beside that of value iteration's."""
    config = TableConfig(total_timesteps=100_000, eval_frequency=0, run_dir=str(tmp_path / "run"))
    policy = fastdqn.load_policy(tabular_run.train(config).folder)
    table = gymnasium.make("FrozenLake-v1").unwrapped.P  # pyright: ignore[reportAttributeAccessIssue]
    goes_on, reward = np.zeros((16, 4, 16)), np.zeros((16, 4))
    for state, of_state in table.items():
        for action, outcomes in of_state.items():
            for chance, following, earned, terminated in outcomes:
                goes_on[state, action, following] += chance * (not terminated)
                reward[state, action] += chance * earned
    values = np.zeros(16)
    for _ in range(1000):
        values = (reward + 0.99 * goes_on @ values).max(1)
    best = (reward + 0.99 * goes_on @ values).argmax(1)

    def success(action):
        value = np.zeros(16)
        for _ in range(100):
            value = (reward + goes_on @ value)[np.arange(16), action]
        return value[0]

    assert success(best) == pytest.approx(0.74, abs=0.002)
    assert success(policy(np.eye(16, dtype=np.uint8))) > success(best) - 0.02
