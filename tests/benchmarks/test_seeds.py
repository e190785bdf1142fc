"""seeds.py: runs that are measured several times."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def seeds(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("seeds")


def test_a_run_is_resumed_from_one_measurement_to_the_next(seeds, monkeypatch):
    calls = []

    def run_fastdqn(*words):
        calls.append(words)

    def measured(run, seed):
        return {"seed": seed, "total_steps": int(calls[-1][-1])}

    monkeypatch.setattr(seeds, "run_fastdqn", run_fastdqn)
    monkeypatch.setattr(seeds, "measured", measured)
    run = seeds.run_seed("lunarlander", 3, 8, ["--gamma", "0.9"], [100, 200])
    assert run == {"seed": 3, "total_steps": 200, "earlier": [{"seed": 3, "total_steps": 100}]}
    (train, preset, *options), resume = calls
    assert (train, preset) == ("train", "lunarlander")
    assert options[:2] == ["--seed", "3"]
    folder = options[3]
    assert options[4:] == ["--num-envs", "8", "--gamma", "0.9", "--total-timesteps", "100"]
    assert resume == ("resume", folder, "--total-timesteps", "200")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--steps", "200", "100"], "--steps 200 100: each must be above the one before"),
        (["--steps", "100", "100"], "--steps 100 100: each must be above the one before"),
        (
            ["--steps", "100", "--", "--total-timesteps", "50"],
            "--steps and --total-timesteps exclude each other: leave one out",
        ),
    ],
)
def test_contradictions_are_told_before_training(seeds, monkeypatch, capsys, words, line):
    monkeypatch.setattr(sys, "argv", ["seeds.py", "cartpole", *words])
    monkeypatch.setattr(seeds, "run_fastdqn", lambda *_: pytest.fail("it trains"))
    with pytest.raises(SystemExit) as ended:
        seeds.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"
