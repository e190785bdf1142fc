"""eval on real runs, and the README's own commands and examples."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.cli import main as cli
from fastdqn.config.schema import ConfigError
from helpers.readme import blocks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short CartPole run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fastdqn.train(
        "cartpole", total_timesteps=2_000, eval_episodes=5, run_dir=str(folder), tensorboard=False
    )
    return folder


def ask(capsys, *words) -> tuple[int, str, str]:
    code = cli.main(list(map(str, words)))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_run_leaves_every_file_that_is_promised(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "requested.json", "command.txt", "system.json", "metrics.jsonl",
        "episodes.csv",
        "eval.jsonl", "policy.safetensors", "best.safetensors", "summary.json", "checkpoints",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() == {
        "env_id", "preset", "seed", "total_steps", "episodes", "updates", "startup_seconds",
        "wall_seconds", "steps_per_second", "phase_seconds", "eval", "solved", "exit_reason",
        "warnings", "residual_phases", "restarted_lanes",
    }  # fmt: skip
    assert {"imports", "build", "kernels"} == summary["startup_seconds"].keys()
    assert sum(summary["phase_seconds"].values()) == pytest.approx(
        summary["wall_seconds"], rel=0.02
    )


def test_evaluations_tell_what_values_promised_and_what_came(run):
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert rows
    assert all(0 < row["mean_discounted"] < row["mean_return"] for row in rows)
    assert all(np.isfinite(row["mean_predicted"]) for row in rows)


def test_eval_prints_json_alone_and_the_same_to_a_file(run, tmp_path, capsys):
    out = tmp_path / "eval.json"
    code, said, _ = ask(capsys, "eval", run, "--episodes", "3", "--json", "--out", out)
    assert code == 0
    assert json.loads(said) == json.loads(out.read_text())
    assert json.loads(said)["episodes"] == 3


def test_eval_takes_the_weights_it_is_told(run, capsys):
    best = ask(capsys, "eval", run, "--episodes", "4")[1]
    last = ask(capsys, "eval", run, "--episodes", "4", "--weights", "last")[1]
    assert "best.safetensors" in best
    assert "policy.safetensors" in last


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--env-id", "Acrobot-v1"], "Acrobot-v1 has observations (6,) and 3 actions; these"),
        (["--episodes", "9999999999999"], "episodes is 9999999999999"),
        (["--out", "no/such/folder/x.json"], "out is 'no/such/folder/x.json'"),
    ],
)
def test_what_eval_cannot_do_is_one_line(run, words, says, capsys):
    code, _, said = ask(capsys, "eval", run, *words)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {says}")


def test_python_mistakes_are_one_error_with_all_lines(tmp_path):
    with pytest.raises(ConfigError) as caught:
        fastdqn.train("cartpole", gamma=2.0, n_steps=0, run_dir=str(tmp_path / "x"))
    assert len(caught.value.lines) == 2
    assert not (tmp_path / "x").exists()


def test_a_policy_takes_any_number_of_observations(run):
    policy = fastdqn.load_policy(run)
    assert [len(policy(np.zeros((n, 4), np.float32))) for n in (1, 7)] == [1, 7]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_examples_of_the_readme_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], "README.md", "exec"), {})
    for env_id in ("Corridor-v0", "Driving-v0"):
        gymnasium.registry.pop(env_id, None)
    trains = "fastdqn.train(" in blocks("python")[number]
    assert Path("runs").exists() == trains


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """The README's module in the working directory, and nowhere after the test."""
    (source,) = [block for block in blocks("python") if block.startswith("# my_package.py")]
    (tmp_path / "my_package.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_package", None)
    gymnasium.registry.pop("Corridor-v0", None)


@pytest.mark.slow
def test_the_environment_and_the_wrapper_of_the_readme_learn_and_are_evaluated(my_package, capsys):
    (command,) = [line for line in commands() if "my_package:StepCosts" in line]
    words = "--total-timesteps 10000 --target-network-frequency 200 --eval-frequency 0 --quiet"
    assert ask(capsys, *shlex.split(f"{command} {words} --run-dir run")[1:])[0] == 0
    code, said, _ = ask(capsys, "eval", "run", "--episodes", "3", "--json")
    assert code == 0
    result = json.loads(said)
    assert result["mean_length"] == 7  # never slips, and never walks to the left
    assert result["mean_return"] == pytest.approx(1 - 7 * 0.01)


def commands() -> list[str]:
    lines = "\n".join(blocks("")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("fastdqn ")]


def job_script() -> str:
    (script,) = [block for block in blocks("sh") if "#SBATCH" in block]
    return script


def test_the_command_of_the_job_script_is_understood(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in job_script().splitlines() if line.startswith("fastdqn ")]
    words = shlex.split(line.removesuffix(" &"))[1:]
    assert ask(capsys, *words, "--dry-run")[0] == 0


@pytest.mark.parametrize(("name", "requeued"), [("USR1", True), ("TERM", False)])
def test_the_job_script_lets_the_run_end_and_requeues_it(tmp_path, name, requeued):
    """With programs in place of fastdqn and SLURM."""
    for program, text in (
        ("fastdqn", "trap 'echo ended > ended; exit 130' TERM\necho > began\n"
                    "while :; do sleep 0.01; done"),
        ("scontrol", "test -e ended && echo $* > requeued"),
    ):  # fmt: skip
        (tmp_path / program).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "job").write_text(job_script())
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", "job"], cwd=tmp_path, env=env)
    while not (tmp_path / "began").exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(timeout=0.01)
            raise AssertionError("ended before the run began")
    while job.poll() is None:  # once more where the script did not know its run yet
        job.send_signal(getattr(signal, f"SIG{name}"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(timeout=0.5)
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_are_understood(
    command, run, my_package, capsys, request, monkeypatch
):
    """Trainings only as a dry run: the test of learning runs one in full."""
    words = [str(run) if word == "runs/..." else word for word in shlex.split(command)[1:]]
    dry = ["--dry-run"] if words[0] == "train" and "--help" not in words else []
    if words[0] == "bench":
        dry = ["--seconds", "0.002", "--repeats", "1", "--num-envs", "2"]
        monkeypatch.setattr("fastdqn.bench.env_speed._MOST_SECONDS", 1.0)
    short = ["--episodes", "2"] if words[0] in ("eval", "video") else []
    short += ["--max-steps", "20"] if words[0] == "video" else []
    short += ["--total-timesteps", "2000", "--eval-episodes", "2"] if words[0] == "tabular" else []
    if words == ["envs"]:
        request.getfixturevalue("without_the_arcade")
    if words[0] == "sweep":
        pytest.importorskip("optuna")
        short = shlex.split(
            "--trials 1 --seeds 1 --total-timesteps 600 --learning-starts 100 "
            "--eval-frequency 300 --eval-episodes 1 --eval-max-steps 20 --num-envs 8"
        )
    if words[0] in ("plot", "report", "export"):
        pytest.importorskip({"plot": "matplotlib", "report": "jinja2", "export": "onnx"}[words[0]])
    code, _, lines = ask(capsys, *words, *dry, *short)
    if "cuda" in words and not torch.cuda.is_available():
        assert code == 2
        assert "this machine has 0 CUDA devices" in str(lines)
    else:
        assert code == 0
