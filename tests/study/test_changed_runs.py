"""Runs of a study that were resumed with other options or another total of steps."""

import json
import shutil
from pathlib import Path

import pytest

from fastdqn.cli import study as command
from fastdqn.study.scheduler import Job
from helpers.command_line import ask
from helpers.studies import TINY, FakeScheduler

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
FIGURES = command._figures
STUDY = ("train", "cartpole", "--seeds", "1-2", "--run-dir", "s", *TINY)


class InProcess(FakeScheduler):
    """Trains each run in this process."""

    def _train(self, job: Job) -> int:
        return ask(*job.words)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a study of two runs, and a copy of it, since its records hold its path."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(command, "LocalScheduler", lambda jobs: InProcess())
        patch.setattr(command, "_figures", lambda folder, changed: [])
        assert ask(*STUDY)[0] == 0
    shutil.copytree(folder / "s", folder / "copy")
    return folder


@pytest.fixture
def trained(monkeypatch, folder) -> FakeScheduler:
    """The study as it was trained, in the working directory. No figures are drawn."""
    monkeypatch.chdir(folder)
    shutil.rmtree("s")
    shutil.copytree("copy", "s")
    made = InProcess()
    monkeypatch.setattr(command, "LocalScheduler", lambda jobs: made)
    monkeypatch.setattr(command, "_figures", lambda folder, changed: [])
    return made


@pytest.mark.slow
def test_a_run_that_was_resumed_with_other_options_is_named_and_left_out(trained, monkeypatch):
    """Also in the figures of the study."""
    monkeypatch.setattr(command, "_figures", FIGURES)
    words = ("--learning-rate", "1e-4", "--num-envs", "8", "--total-timesteps", "900")
    code, _, err = ask("resume", "s/base/seed-1", *words)
    assert code == 0
    assert err == [
        f"warning: base/seed-1 is a run of the study in {Path.cwd() / 's'}, which leaves it out "
        "from now on: learning_rate, num_envs, total_timesteps will differ"
    ]  # fmt: skip
    line = (
        "base/seed-1 differs from the study: num_envs 4 -> 8, learning_rate 0.008 -> 0.0001, "
        "total_timesteps 600 -> 900. It is left out: remove its folder to train it again"
    )
    code, out, err = ask(*STUDY)
    assert (code, err) == (0, [])
    assert out.startswith("1 of 2 runs have finished before\n")
    assert out.count(line) == 1
    result = json.loads(Path("s/results.json").read_text())
    assert result["variants"][0]["seeds"] == [2]
    assert [*result["left_out"]] == ["base/seed-1"]
    page = Path("s/report.html").read_text()
    assert "seed-2" in page
    assert "seed-1" not in page
    assert ask(*STUDY, "--dry-run")[1].splitlines()[1:] == [
        "base/seed-1  left out", "base/seed-2  finished", line,
    ]  # fmt: skip
    assert ask("plot", "s", "--out", "a.svg")[1].splitlines() == [line, "written: a.svg"]


def test_a_run_whose_total_alone_was_raised_is_left_out(trained):
    code, _, err = ask("resume", "s/base/seed-1", "--total-timesteps", "900")
    assert (code, len(err)) == (0, 1)
    assert "base/seed-1 differs from the study: total_timesteps 600 -> 900. It" in ask(*STUDY)[1]


def test_a_run_that_was_started_with_other_options_is_left_out(trained):
    for name in ("requested.json", "config.json"):
        path = Path("s/base/seed-2", name)
        path.write_text(json.dumps({**json.loads(path.read_text()), "gamma": 0.5}))
    assert "base/seed-2 differs from the study: gamma 0.99 -> 0.5. It" in ask(*STUDY)[1]


def test_a_resume_without_an_effect_on_learning_leaves_the_run_in(trained):
    words = ("--checkpoint-frequency", "200", "--learning-rate", "8e-3")
    assert ask("resume", "s/base/seed-1", *words)[::2] == (0, [])
    assert "differs" not in ask(*STUDY)[1]
    assert json.loads(Path("s/results.json").read_text())["variants"][0]["seeds"] == [1, 2]


def test_a_run_whose_folder_was_removed_is_trained_again(trained):
    assert ask("resume", "s/base/seed-1", "--gamma", "0.9")[0] == 2  # it cannot change
    assert ask("resume", "s/base/seed-1", "--total-timesteps", "900")[0] == 0
    assert ask(*STUDY)[0] == 0
    assert trained.started == []
    shutil.rmtree("s/base/seed-1")
    assert "differs" not in ask(*STUDY)[1]
    assert [job.key for job in trained.started] == ["base/seed-1"]


def test_a_damaged_record_of_changes_leaves_the_run_out(trained):
    Path("s/base/seed-1/changes.jsonl").write_text("{")
    said = ask(*STUDY)[1]
    assert "base/seed-1 differs from the study: changes.jsonl a list of changes -> an unr" in said


def test_a_figure_leaves_out_what_the_results_do(trained):
    result = json.loads(Path("s/results.json").read_text())
    result["left_out"] = {"base/seed-1": "gamma 0.9 -> 0.8"}
    Path("s/results.json").write_text(json.dumps(result))
    line = "base/seed-1 differs from the study: gamma 0.9 -> 0.8. It is left out"
    assert ask("plot", "s", "--out", "a.svg")[1].startswith(line)
