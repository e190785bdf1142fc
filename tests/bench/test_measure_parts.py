"""Benchmarks of partial batches and slow environments, and headers of results."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastdqn.bench import bench, env_speed, measured_budget, training_speed
from fastdqn.bench.env_speed import available, measure_envs, waits
from fastdqn.bench.machine_info import commit, describe_machine, torch_threads
from fastdqn.bench.measured_budget import RepeatsBudget, TurnsBudget
from fastdqn.bench.policy_speed import measure_acting
from fastdqn.bench.repeats import Effort, Rate
from fastdqn.bench.replay_speed import measure_adding
from fastdqn.bench.synthetic_data import fill_replay
from fastdqn.bench.training_speed import measure_training
from fastdqn.builders import agent
from fastdqn.cli.main import main
from fastdqn.envs import EnvRecipe
from fastdqn.learning.policy import Policy
from fastdqn.timing import Laps
from helpers.measuring import EFFORT, FACTS, LANES, FakeClock, Slow, config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# -- partial batches


def partial(**changes):
    return config(vectorization="async", env_batch_size=2, **changes)


def test_a_policy_is_called_for_a_partial_batch(monkeypatch):
    sizes = set()
    original = Policy.act

    def act(self, obs, *args, **kwargs):
        sizes.add(len(obs))
        return original(self, obs, *args, **kwargs)

    monkeypatch.setattr(Policy, "act", act)
    calls, actions = measure_acting(partial(), FACTS, Effort(0.001, 1, 0.0))
    assert sizes == {2}
    assert calls.of == {"num_envs": LANES, "env_batch_size": 2}
    assert actions.rate.median == pytest.approx(2 * calls.rate.median)


def test_every_environment_gets_rows_from_partial_batches():
    replay = agent.make_replay(config(), FACTS)
    fill_replay(replay, FACTS, 3)
    before, lanes = replay.ring.added.copy(), []
    original = replay.append
    replay.append = lambda step: (lanes.append(step.lanes.tolist()), original(step))[1]
    adds, rows = measure_adding(replay, 3, FACTS, Effort(0.01, 1, 0.0), time.perf_counter)
    assert [len(set(of_a_call)) for of_a_call in lanes] == [3] * len(lanes)
    assert rows.rate.median == pytest.approx(3 * adds.rate.median)
    assert (replay.ring.added - before > 0).all()
    assert adds.of["env_batch_size"] == 3


def test_iterations_of_the_loop_are_counted_with_or_without_steps(clock, slow_parts):
    # A tenth of the turns only resets: they bring no step.
    trained = measure_training(config(), EFFORT, clock=clock, envs=Slow(clock))
    steps_per_turn = trained.figure.rate.median / trained.turns.median
    assert steps_per_turn == pytest.approx(0.9 * LANES, rel=0.02)


@pytest.mark.slow
def test_a_sweep_measures_partial_batches_of_every_vectorization_that_has_them():
    assert waits(EnvRecipe("CartPole-v1", "async"), 8) == [8, 4]
    assert waits(EnvRecipe("CartPole-v1", "async"), 8, 3) == [8, 4, 3]
    assert waits(EnvRecipe("CartPole-v1", "sync"), 8, 3) == [8]
    assert available(EnvRecipe("CartPole-v1", "sync")) == ["sync"]
    assert "native" in available(EnvRecipe("CartPole-v1"))
    assert "native" not in available(EnvRecipe("Acrobot-v1"))


@pytest.mark.slow
def test_bench_env_measures_the_env_batch_size_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdqn.bench.env_speed.most_lanes", lambda _: 4)
    out = tmp_path / "out.jsonl"
    words = (
        "bench env CartPole-v1 --vectorization async --num-envs 3 --env-batch-size 2 "
        f"--seconds 0.001 --repeats 1 --out {out}"
    )
    assert main(words.split()) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert {row["vectorization"] for row in rows} == {"async"}
    waited = {row.get("env_batch_size") for row in rows
              if row["vectorization"] == "async" and row["num_envs"] == 3}  # fmt: skip
    assert waited == {None, 1, 2}


# -- slow environments


class SlowToMake(gymnasium.Env):
    """Environment that takes a second of a fake clock to create, and no time to step."""

    clock: FakeClock
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.clock.spend(1.0)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.clock.spend(1e-3)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_counts_that_would_take_too_long_are_left_out(clock, monkeypatch):
    monkeypatch.setattr(SlowToMake, "clock", clock, raising=False)
    monkeypatch.setattr(env_speed, "available", lambda *_: ["sync"])
    lines: list[str] = []
    figures = measure_envs(
        EnvRecipe(SlowToMake), [1, 4, 8, 64, 512], Effort(0.1, 1, 0.0), clock, note=lines.append
    )
    assert [figure.of["num_envs"] for figure in figures] == [1, 4, 8]
    assert lines[0].startswith("sync with 64 environments is left out: making them would take")


def test_counts_of_more_processes_than_cores_bear_are_named(clock, monkeypatch):
    monkeypatch.setattr(env_speed, "usable_cores", lambda: 2)
    monkeypatch.setattr(env_speed, "available", lambda *_: ["async"])
    lines: list[str] = []
    assert not list(measure_envs(EnvRecipe("x"), [64], EFFORT, clock, note=lines.append))
    assert lines == [
        "async with 64 environments is left out: 8 processes are the most that are measured on "
        "these cores"
    ]


def test_learning_starts_in_time_with_slow_environments(clock, slow_parts, monkeypatch):
    monkeypatch.setattr(Slow, "step", slow_step)
    asked = config().replace(learning_starts=10_000)
    began = clock.now
    trained = measure_training(asked, Effort(5.0, 1, 0.0), clock=clock, envs=Slow(clock))
    assert trained.updates > 0
    assert clock.now - began < measured_budget.MOST_RANDOM_SECONDS + 30.0  # not 1,250 s


def slow_step(envs: Slow, actions):
    envs.clock.spend(1.0)
    obs = np.zeros((envs.num_envs, 4), np.float32)
    never = np.zeros(envs.num_envs, bool)
    return obs, np.ones(envs.num_envs), never, never, {}


# -- sums


def test_time_outside_all_phases_is_detected(clock, slow_parts, monkeypatch):
    original = Laps.lap

    def forgets_the_environment(self, name: str) -> None:
        if name == "env":
            self._last = self._clock()
        else:
            original(self, name)

    monkeypatch.setattr(Laps, "lap", forgets_the_environment)
    trained = measure_training(config(), EFFORT, clock=clock, envs=Slow(clock))
    assert sum(trained.phases.values()) < 0.7 * trained.seconds
    said = bench._around(trained)
    assert "the phases add up to 100" not in said
    assert "start-up: build" in said


def test_a_budget_of_iterations_starts_after_burn_in_and_counts_them(clock):
    run = SimpleNamespace(progress=SimpleNamespace(updates=0))
    run.stream = SimpleNamespace(num_lanes=1)
    run.replay = SimpleNamespace(n_steps=1)
    run.staging = SimpleNamespace(host=SimpleNamespace(index=[0]))
    run.cadence = SimpleNamespace(learning_starts=0)
    calls: list[str] = []
    budget = TurnsBudget(run, 2, lambda: calls.append("begin"), lambda: calls.append("end"), clock)  # pyright: ignore[reportArgumentType]
    assert not budget.spent(1, 0)
    run.progress.updates = 1
    assert not budget.spent(2, 0)
    clock.spend(60.0)  # a slow one need not make 20 updates
    assert [budget.spent(steps, 0) for steps in (3, 4, 5)] == [False, False, True]
    assert calls == ["begin", "end"]


# -- headers


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *settings, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Creates a git repository with a package in it, and returns the package."""
    package = tmp_path / "fastdqn"
    package.mkdir()
    (package / "__init__.py").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return package


def test_the_commit_is_reported_and_whether_files_differ(checkout):
    clean = commit(checkout)
    assert clean is not None
    assert not clean.endswith("-dirty")
    (checkout / "__init__.py").write_text("changed")
    assert commit(checkout) == f"{clean}-dirty"


def test_the_repository_around_an_installed_package_is_ignored(checkout, monkeypatch):
    installed = checkout.parent / "venv" / "site-packages" / "fastdqn"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert commit(installed) is None
    git(checkout.parent, "add", "-f", "venv")
    assert commit(installed) is None  # kept there, it is still not where ours lies
    git(checkout.parent, "rm", "-q", "--cached", "fastdqn/__init__.py")
    assert commit(checkout) is None  # nobody keeps it there
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / ".git"))
    assert commit(installed) is None


def test_threads_are_those_during_the_measurement():
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert describe_machine("cpu", 1)["threads"] == 1


@pytest.mark.parametrize("words", ["--repeats 0", "--seconds 0", "--seconds nan", "--repeats x"])
def test_a_benchmark_rejects_an_effort_that_measures_nothing(words, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    harness = importlib.import_module("harness")
    with pytest.raises(SystemExit, match="2"):
        harness.parser("").parse_args(words.split())
    assert "must be" in capsys.readouterr().err.splitlines()[-1]


def test_a_sweep_that_trains_records_its_threads_and_its_effort(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench_train = importlib.import_module("bench_train")
    trained = training_speed.Trained(
        training_speed.Figure("train", "train_steps_per_second", Rate(1, 1, 1, 1), {}),
        Rate(1, 1, 1, 1), {"env": 1.0}, 1.0, 1, 1, {}, 0.0, 0,
    )  # fmt: skip
    monkeypatch.setattr(bench_train, "measure_training", lambda *_, **__: trained)
    out = tmp_path / "out.json"
    words = ["bench_train.py", "--sweep", "rows", "--seconds", "0.1", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    bench_train.main()
    record = json.loads(out.read_text())
    assert record["machine"]["threads"] == bench_train.THREADS == 1
    assert (record["seconds"], record["repeats"]) == (0.1, 2)


def test_a_rate_needs_its_repeats(clock):
    run = SimpleNamespace(
        progress=SimpleNamespace(updates=1), laps=SimpleNamespace(restart=lambda: None)
    )
    budget = RepeatsBudget(run, Effort(1.0, 2, 0.0), clock)  # pyright: ignore[reportArgumentType]
    ended = []
    for turn in range(1, 6):
        ended.append(budget.spent(10 * turn, 0))
        clock.spend(0.5)
    assert ended == [False, False, False, False, True]
    assert budget.step_rates == [20.0, 20.0]
    assert budget.turn_rates == [2.0, 2.0]
    assert budget.turns == 4
