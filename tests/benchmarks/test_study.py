"""The study: its rows, interruption, and statistics."""

import importlib
import json

import numpy as np
import pytest

from fastdqn.config.presets import PRESETS
from helpers.study import BENCHMARKS, result


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def study(modules, monkeypatch):
    """The study with fake runs, which are recorded in .ran."""
    module = modules("study")
    ran = []

    def run(job, args):
        ran.append(job)
        (args.folder / job.file).write_text(json.dumps(result(job)))
        return 0

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "ran", ran, raising=False)
    return module


def call(study, monkeypatch, *words) -> None:
    monkeypatch.setattr("sys.argv", ["study.py", *map(str, words)])
    study.main()


def refused(study, monkeypatch, capsys, *words) -> str:
    with pytest.raises(SystemExit) as raised:
        call(study, monkeypatch, *words)
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.slow
def test_every_row_is_a_config_without_problems(modules):
    rows = modules("study_rows")
    asked = rows.jobs(None)
    assert len({job.file for job in asked}) == len(asked) == 11 * 10 + 10 * 5
    for share in (1.0, 0.01):
        for job in asked:
            if job.row != rows.TABLE:
                assert rows.config_of(job, share, "run").problems() == [], job


def test_rows_differ_from_dqn_as_their_names_say(modules):
    rows = modules("study_rows")

    def differing(row):
        plain, other = (
            vars(rows.config_of(rows.Job("Acrobot-v1", each, 1), 1.0, "run"))
            for each in ("DQN", row)
        )
        return {name for name in plain if plain[name] != other[name]}

    assert differing("DQN, no replay") == {"replay"}
    assert differing("DQN, no target network") == {"target_network"}
    assert differing("D3QN") == {"double", "dueling"}
    rainbow = PRESETS["cartpole-rainbow"]
    last = rows.config_of(rows.Job("CartPole-v1", list(rows.ROWS)[-1], 1), 1.0, "run")
    switches = ("double", "dueling", "prioritized", "n_steps", "value", "noisy")
    assert all(getattr(last, name) == getattr(rainbow, name) for name in switches)


@pytest.mark.slow
def test_an_interrupted_study_continues(study, tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "study", tmp_path / "out.json"
    call(study, monkeypatch, folder, "--seeds", 1, "--tasks", "CartPole-v1", "--share", 0.1)
    first = list(study.ran)
    assert len(first) >= 10
    study.ran.clear()
    (folder / first[3].file).write_text('{"cut off')
    call(study, monkeypatch, folder, "--seeds", 2, "--share", 0.1, "--out", out)
    assert first[3] in study.ran
    assert not set(first[:3]) & set(study.ran)
    figures = json.loads(out.read_text())
    assert figures["tasks"]["CartPole-v1"]["DQN"]["runs"] == 2
    assert figures["version"] == 1
    study.ran.clear()
    call(study, monkeypatch, folder, "--seeds", 2, "--share", 0.1, "--dry-run")
    assert study.ran == []
    assert "missing: about 0 minutes" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(study, tmp_path, monkeypatch, capsys):
    call(study, monkeypatch, tmp_path / "study", "--dry-run", "--jobs", 2)
    assert not (tmp_path / "study").exists()
    assert "minutes with 2 parallel runs" in capsys.readouterr().out


@pytest.mark.slow
def test_the_folder_of_another_study_is_rejected(study, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "study"
    call(study, monkeypatch, folder, "--seeds", 1, "--share", 0.1)
    header = folder / study.HEADER
    theirs = json.loads(header.read_text())
    line = refused(study, monkeypatch, capsys, folder, "--share", 0.2)
    assert "is a study with other share" in line
    header.write_text(json.dumps(theirs | {"version": 7}))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    line = refused(study, monkeypatch, capsys, folder, "--share", 0.1)
    assert f"{folder} is a study of version '7', and this is 1" in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    header.write_text("no json")
    assert "is not the header of a study" in refused(study, monkeypatch, capsys, folder)


def test_a_folder_with_other_files_is_rejected(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert "is not the folder of a study" in refused(study, monkeypatch, capsys, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_failed_runs_are_reported_and_an_interrupted_study_can_continue(
    study, tmp_path, monkeypatch, capsys
):
    words = (tmp_path / "study", "--seeds", 1, "--tasks", "CartPole-v1")
    monkeypatch.setattr(study, "_run", lambda job, args: 130)
    assert "the same command continues" in refused(study, monkeypatch, capsys, *words)


# -- figures


def test_an_interquartile_mean_leaves_out_a_quarter_at_either_end(modules):
    figures = modules("study_figures")
    values = np.array([-1000.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9000.0])
    assert figures.iqm(values) == 2.5
    found = figures.with_interval(values)
    low, high = found["interval_95"]
    assert low < found["iqm"] == 2.5 < high
    assert figures.with_interval(np.full(5, 3.0)) == {"iqm": 3.0, "interval_95": [3.0, 3.0]}


def test_tasks_are_resampled_separately(modules):
    """The interval of tasks without spread has zero width, however different they are."""
    found = modules("study_figures").with_interval(np.zeros(10), np.append(np.ones(9), 1.001))
    low, high = found["interval_95"]
    assert high - low < 1e-3


def test_statistics_match_hand_computed_ones(modules):
    rows, figures = modules("study_rows"), modules("study_figures")
    jobs = rows.jobs(2)
    runs = [result(job, 500.0 if job.task == "CartPole-v1" else -100.0) for job in jobs]
    diverged = next(run for run in runs if (run["task"], run["row"]) == ("CartPole-v1", "D3QN"))
    diverged |= {"diverged": "the loss is nan", "last_return": None}
    found = figures.summary(runs)
    d3qn = found["tasks"]["CartPole-v1"]["D3QN"]
    assert (d3qn["diverged"], d3qn["last"]["returns"]) == (1, [22.6, 500.0])
    assert [point["step"] for point in d3qn["curve"]] == [10, 20]
    scales = [(500 - 22.6) / (475 - 22.6), 1.0]  # of both tasks, by random play and threshold
    assert found["both"]["DQN"]["iqm"] == pytest.approx(float(np.mean(scales)), abs=1e-3)
    (point, _) = found["overestimation"]["Acrobot-v1"]["Double DQN"]
    assert (point["predicted"]["iqm"], point["over"]["iqm"]) == (12.0, 2.0)
    assert found["classic"]["within_200_to_400_of_195"] == 2
    assert found["classic"]["within_200_to_400_of_475"] == 0
    assert "2 of 2 within 200 to 400 episodes" in figures.table(found)


@pytest.mark.slow
def test_every_plot_can_be_drawn(modules):
    pytest.importorskip("matplotlib").use("agg")
    rows, figures = modules("study_rows"), modules("study_figures")
    record = figures.summary([result(job) for job in rows.jobs(2)])
    pictures = modules("study_pictures")
    names = {"study-curves", "study-scores", "study-overestimation", "study-classic"}
    assert pictures.draw_all(record).keys() == names
    pictures.plt.close("all")


def test_a_prediction_is_compared_with_the_actual_return(modules):
    """Always left: CartPole falls after 8 to 11 steps with a reward of 1 each."""

    class Left:
        def expected(self, obs):
            return np.array([[7.0, 3.0]] * len(obs), np.float32)

        def __call__(self, obs):
            return np.zeros(len(obs), np.int64)

    found = modules("study_run").predict(Left(), "CartPole-v1", 0.5, seed=1)
    assert found["predicted"] == 7.0
    assert 2 - 0.5**7 <= found["realised"] < 2.0
