"""What a run leaves behind, and eval on it."""

import errno
import json
import shutil
import tempfile

import numpy as np
import pytest

import fastdqn
from fastdqn.cli import main as cli
from fastdqn.config.schema import ConfigError
from fastdqn.study.study_folder import Study, Variant, write_study


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
        "warnings", "residual_phases", "restarted_envs", "eval_last", "advice",
    }  # fmt: skip
    assert {"imports", "build", "kernels"} == summary["startup_seconds"].keys()
    assert sum(summary["phase_seconds"].values()) == pytest.approx(
        summary["wall_seconds"], rel=0.02
    )


def test_evaluations_report_what_values_promised_and_what_came(run):
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


def test_eval_takes_the_weights_it_is_given(run, capsys):
    best = ask(capsys, "eval", run, "--episodes", "4")[1]
    last = ask(capsys, "eval", run, "--episodes", "4", "--weights", "last")[1]
    assert "best.safetensors" in best
    assert "policy.safetensors" in last


def test_eval_cuts_episodes_as_the_run_does_and_says_so(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    requested = json.loads((copy / "requested.json").read_text())
    (copy / "requested.json").write_text(json.dumps({**requested, "eval_max_steps": 7}))
    for words, most in (([], 7), (["--max-steps", "5"], 5), (["--env-id", "CartPole-v1"], 500)):
        _, said, err = ask(capsys, "eval", copy, "--episodes", "3", "--json", *words)
        assert err == ""
        assert json.loads(said)["mean_length"] <= most
    err = ask(capsys, "eval", copy, "--episodes", "2", "--max-steps", "100000")[2]
    line = "evaluating 2 episodes of at most 100,000 steps (--episodes, --max-steps)"
    assert err.splitlines() == [line]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--env-id", "Acrobot-v1"], "Acrobot-v1 has observations (6,) and 3 actions, and the"),
        (["--episodes", "9999999999999"], "episodes is 9999999999999"),
        (["--out", "no/such/folder/x.json"], "out is 'no/such/folder/x.json'"),
    ],
)
def test_what_eval_cannot_do_is_one_line(run, words, says, capsys):
    code, _, said = ask(capsys, "eval", run, *words)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {says}")


def test_a_folder_in_which_no_file_can_be_created_is_refused_as_out(
    run, tmp_path, monkeypatch, capsys
):
    def denied(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    code, _, said = ask(capsys, "eval", run, "--out", str(tmp_path / "x.json"))
    line = f"no file can be created in {tmp_path}: Read-only file system"
    assert (code, said) == (2, f"error: out is '{tmp_path}/x.json': {line}\n")


def test_python_mistakes_are_one_error_with_all_lines(tmp_path):
    with pytest.raises(ConfigError) as caught:
        fastdqn.train("cartpole", gamma=2.0, n_steps=0, run_dir=str(tmp_path / "x"))
    assert len(caught.value.lines) == 2
    assert not (tmp_path / "x").exists()


def test_a_policy_takes_any_number_of_observations(run):
    policy = fastdqn.load_policy(run)
    assert [len(policy(np.zeros((n, 4), np.float32))) for n in (1, 7)] == [1, 7]


@pytest.mark.parametrize("command", ["eval", "resume", "video", "export"])
def test_a_folder_of_runs_in_place_of_a_run_names_some_of_them(tmp_path, command, capsys):
    study = Study("cartpole", (), (Variant("base", ()),), (1, 2))
    (tmp_path / "mine").mkdir()
    write_study(tmp_path / "mine", study)
    runs = [str(tmp_path / "mine" / "base" / f"seed-{seed}") for seed in (1, 2)]
    code, _, said = ask(capsys, command, str(tmp_path / "mine"))
    assert code == 2
    assert said == f"error: {tmp_path}/mine is a study: name one of its runs, {', '.join(runs)}\n"
    for name in ("d", "b", "a", "c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    code, _, said = ask(capsys, command, str(tmp_path / "runs"))
    assert code == 2
    named = ", ".join(str(tmp_path / "runs" / name) for name in ("a", "b", "c"))
    folder = tmp_path / "runs"
    assert said == f"error: {folder} is a folder of runs: name one of them, {named} and 1 more\n"


@pytest.mark.parametrize("words", [["report"], ["plot", "--out", "a.png"]])
def test_a_report_of_a_folder_of_runs_names_some_of_them(tmp_path, words, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    command, *rest = words
    code, _, said = ask(capsys, command, str(tmp_path), *rest)
    named = f"{tmp_path}/a, {tmp_path}/b"
    assert code == 2
    assert said == f"error: {tmp_path} is a folder of runs: name one of them, {named}\n"
