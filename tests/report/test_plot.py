"""fastdqn plot: curves, the figure, and all errors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastdqn.report.curves import QUANTITIES, Line, band, column_of, line, phases, quantity_of
from fastdqn.report.run_data import read_runs
from fastdqn.report.seed_groups import goal_of, group
from helpers.command_line import ask
from helpers.report_pages import evaluation_row, write_run

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three seeds of one setting, and one of another."""
    root = tmp_path_factory.mktemp("runs")
    seeds = [write_run(root / f"a{seed}", seed=seed) for seed in (1, 2, 3)]
    return [*map(str, seeds), str(write_run(root / "b", rows=10, seed=1, double=False))]


@pytest.fixture
def records(folders):
    return read_runs(folders)


def test_runs_that_differ_by_seed_and_housekeeping_are_one_group(tmp_path, records):
    kept = {"checkpoint_seconds": None, "on_disk_error": "continue", "max_step_seconds": 30.0}
    other = read_runs([str(write_run(tmp_path / "x", seed=9, **kept))])
    found = group([*records, *other])
    assert [(each.label, len(each.runs)) for each in found] == [("double", 4), ("no double", 1)]
    assert [each.label for each in group(records[:3])] == ["cartpole"]


@pytest.mark.parametrize(("over", "end"), [("steps", 2000), ("episodes", 40), ("time", 10.0)])
def test_a_curve_has_all_rows_over_every_axis(records, over, end):
    returns = line(records[0], QUANTITIES["return"], over)
    # Rows of 2 episodes each: from the eighth on, each of 16 environments has finished one.
    assert (len(returns.x), returns.x[-1], returns.y[-1]) == (13, end, 21.0)
    evaluations = line(records[0], QUANTITIES["evaluation"], over)
    np.testing.assert_allclose(evaluations.x, end * np.array([0.25, 0.5, 0.75, 1.0]))
    np.testing.assert_array_equal(evaluations.y, [12.0, 22.0, 32.0, 42.0])


def test_returns_start_once_each_environment_has_finished_an_episode(tmp_path):
    """One environment may finish many short episodes before another finishes its first."""
    folder = write_run(tmp_path / "x", num_envs=2)
    whole = line(read_runs([str(folder)])[0], QUANTITIES["return"], "steps")
    assert whole.x[0] == 100  # two episodes, of any environment
    ended = [(100, 0), (400, 0), (700, 0), (1150, 1), (1200, 0)]
    rows = [f"{i},{steps},{env},1.5,10" for i, (steps, env) in enumerate(ended, 1)]
    text = "\n".join(["episode,steps,lane,return,length", *rows, "not an episode", ""])
    (folder / "episodes.csv").write_text(text)
    curve = line(read_runs([str(folder)])[0], QUANTITIES["return"], "steps")
    assert (curve.x[0], curve.x[-1]) == (1200, 2000)
    evaluations = line(read_runs([str(folder)])[0], QUANTITIES["evaluation"], "steps")
    assert evaluations.x[0] == 500


def test_a_mean_covers_the_common_range_and_its_interval_lies_within_the_runs(records):
    lines = [line(record, QUANTITIES["return"], "steps") for record in records]
    found = band(lines)
    assert found is not None
    assert (found.x[0], found.x[-1]) == (800.0, 1000.0)  # the last run has ten rows
    np.testing.assert_allclose(found.mean, found.x / 100 + (1 + 2 + 3 + 1) / 4)
    assert (found.low >= found.x / 100 + 1 - 1e-9).all()
    assert (found.high <= found.x / 100 + 3 + 1e-9).all()
    assert (found.low < found.mean).all()
    assert band(lines[:1]) is None


@pytest.mark.parametrize("over", ["steps", "episodes", "time"])
def test_phases_are_shares_of_the_time_in_each_bin(records, over):
    found = phases(records[:2], over)
    assert found is not None
    assert (found.edges[0], len(found.edges)) == (0.0, 5)  # a bin for each of 4 evaluations
    for name, share in (("learn", 0.5), ("env", 0.3), ("act", 0.2)):
        np.testing.assert_allclose(found.shares[name], share)


def test_a_row_without_a_number_leaves_a_gap_not_a_zero(tmp_path):
    folder = write_run(tmp_path / "x", rows=3)
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["rollout/ep_rew_mean"] = None
    del rows[0]["rollout/ep_rew_mean"]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 400, "rollout/ep_'
    (folder / "metrics.jsonl").write_text(text)  # the last row is being written
    found = line(read_runs([str(folder)])[0], QUANTITIES["return"], "steps")
    assert (found.x.tolist(), found.y.tolist()) == ([300.0], [4.0])


def test_confirmations_and_the_final_evaluation_are_not_on_the_curve(tmp_path):
    folder = write_run(tmp_path / "x")
    with open(folder / "eval.jsonl", "a") as file:
        for kind in ("confirm", "final"):
            file.write(json.dumps({**evaluation_row(20, 1), "kind": kind}) + "\n")
    found = line(read_runs([str(folder)])[0], QUANTITIES["evaluation"], "steps")
    assert len(found.x) == 4


def test_an_interquartile_mean_leaves_out_a_quarter_at_each_end():
    lines = [Line(np.array([0.0, 10.0]), np.array([y, y])) for y in (0.0, 2.0, 4.0, 100.0)]
    means = [band(lines, center) for center in ("mean", "iqm")]
    assert [each.mean[0] for each in means if each is not None] == [26.5, 3.0]


def add_column(path: Path, name: str) -> None:
    """Adds a column to a file of rows: 0.1 in the first, 0.2 in the second, and so on."""
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    lines = [json.dumps({**row, name: (i + 1) / 10}) + "\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))


def test_columns_of_metrics_and_of_evaluations_are_curves(tmp_path):
    folder = write_run(tmp_path / "x")
    add_column(folder / "metrics.jsonl", "rollout/success_rate")
    add_column(folder / "eval.jsonl", "mean_is_success")
    records = read_runs([str(folder)])
    trained = line(records[0], quantity_of("rollout/success_rate", records), "steps")
    np.testing.assert_allclose(trained.y, np.arange(1, 21) / 10)
    evaluated = line(records[0], quantity_of("mean_is_success", records), "steps")
    np.testing.assert_allclose(evaluated.y, [0.1, 0.2, 0.3, 0.4])
    out = tmp_path / "a.svg"
    names = ["rollout/success_rate", "mean_is_success"]
    assert ask("plot", str(folder), "--out", str(out), "--curves", *names)[0] == 0
    text = out.read_text()
    for title in (*names, "success_rate"):
        assert f"<!-- {title} -->" in text
    assert "<!-- last weights -->" not in text


def test_a_curve_that_no_run_has_is_named_with_those_it_has(folders):
    words = ["--out", "a.svg", "--curves", "rollout/ep_rew"]
    code, _, lines = ask("plot", *folders, *words)
    assert code == 2
    assert lines == [
        "error: unknown curve 'rollout/ep_rew': did you mean rollout/ep_rew_mean or "
        "rollout/episodes or rollout/exploration_rate? Others are evaluation, return, q, loss, "
        "epsilon, phases, and each name in the rows of metrics.jsonl and eval.jsonl"
    ]  # fmt: skip
    code, _, lines = ask("plot", *folders, *words[:-1], "qvalues")
    assert lines[0].startswith("error: unknown curve 'qvalues': did you mean losses/q_values? ")
    code, _, lines = ask("plot", *folders, *words[:-1], "zzz")
    assert lines[0].startswith("error: unknown curve 'zzz': curves are evaluation, return, ")


def test_the_end_of_the_name_of_a_column_is_enough(tmp_path):
    """Where training has one such column alone: evaluations may have it, too."""
    folder = write_run(tmp_path / "x")
    for name in ("rollout/success_rate", "eval/success_rate", "eval/keys", "a/same", "b/same"):
        add_column(folder / "metrics.jsonl", name)
    records = read_runs([str(folder)])
    names = ("success_rate", "rollout/success_rate", "keys", "same", "rate", "eval/same")
    assert [column_of(name, records) for name in names] == [
        "rollout/success_rate", "rollout/success_rate", "eval/keys", None, None, None,
    ]  # fmt: skip
    quantity = quantity_of("success_rate", records)
    assert (quantity.key, quantity.unit, quantity.evaluated) == (
        "rollout/success_rate", "success_rate", False,
    )  # fmt: skip
    words = ("--out", str(tmp_path / "a.svg"), "--curves", "success_rate")
    assert ask("plot", str(folder), *words)[0] == 0
    assert "<!-- rollout/success_rate -->" in (tmp_path / "a.svg").read_text()


def test_evaluations_do_not_alternate_with_the_other_phases(tmp_path):
    folder = write_run(tmp_path / "x")
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):  # the row after each of the evaluations is full of it
        row["time/share/evaluate"] = 0.8 if number % 5 == 0 else 0.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = phases(read_runs([str(folder)]), "steps")
    assert found is not None
    assert np.ptp(found.shares["evaluate"]) < 1e-9


def test_labels_name_the_settings(folders, tmp_path):
    out = tmp_path / "a.svg"
    words = ["--out", str(out), "--curves", "evaluation"]
    assert ask("plot", *folders, *words, "--labels", "with Double", "without it")[0] == 0
    text = out.read_text()
    assert "<!-- with Double (3) -->" in text
    assert "<!-- goal 30 -->" in text
    assert "<!-- last weights -->" in text
    assert "<!-- return -->" in text  # the y label
    code, _, lines = ask("plot", *folders, *words, "--labels", "one")
    assert (code, len(lines)) == (2, 1)
    assert lines[0] == (
        "error: labels has 1 names for 2 settings: give one for each of 'double', 'no double'"
    )


@pytest.mark.slow
def test_many_settings_have_a_panel_each(tmp_path):
    runs = [str(write_run(tmp_path / str(n), n_steps=n)) for n in range(1, 9)]
    out = tmp_path / "a.svg"
    assert ask("plot", *runs, "--out", str(out), "--curves", "evaluation")[0] == 0
    text = out.read_text()
    for n in range(1, 9):
        assert f"<!-- mean return of greedy evaluations: n_steps {n} -->" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_figure_of_several_settings_and_seeds_is_written(folders, tmp_path, name):
    out = tmp_path / name
    code, said, err = ask("plot", *folders, "--out", str(out))
    assert (code, said, err) == (0, f"written: {out}\n", [])
    assert out.stat().st_size > 10_000
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_untrusted_names_are_plain_text_in_a_figure(tmp_path):
    folder = write_run(tmp_path / "x", preset="$\\frac{1}$ <script> \u4e2d _\ud800\n", seed=7)
    out = tmp_path / "a.svg"
    words = ["--curves", "evaluation", "--over", "time", "--out", str(out)]
    assert ask("plot", str(folder), *words)[0] == 0
    assert "<script>" not in out.read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "plot needs --out FILE.png, FILE.svg or FILE.pdf"),
        (["--out", "a.gif"], "out is 'a.gif': it must end in .png, .svg or .pdf"),
        (["--out", "a.png", "--over", "years"], "--over is 'years': it must be"),
        (["--out", "a.png", "--curves"], "curves has no value"),
        (["--outt", "a.png", "--out", "a.png"], "unknown option '--outt': did you mean --out?"),
    ],
)
def test_an_error_of_plot_is_one_line(folders, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, out, lines = ask("plot", folders[0], *words)
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"error: {says}")
    assert list(tmp_path.iterdir()) == []


def spoiled(folder, kind: str):
    """Writes a run that cannot be shown, and returns the end of the error."""
    if kind == "begun":
        (write_run(folder) / "metrics.jsonl").write_text("")
        (folder / "summary.json").unlink()
        return "has no metrics yet: it has just started: try again later"
    if kind == "failed":
        write_run(folder, summary={"exit_reason": "failed: env 3:\nboom"})
        (folder / "metrics.jsonl").write_text("")
        return "has no metrics yet: failed: env 3: boom"
    if kind == "other":
        write_run(folder, env_id="Acrobot-v1")
        return "runs of CartPole-v1 and Acrobot-v1 cannot be compared: give runs of one"
    if kind == "broken":
        (write_run(folder) / "metrics.jsonl").write_text('{"step": 1}\n{"step": [1]}\n')
        return "metrics.jsonl, line 2: not a JSON object with a step"
    if kind == "within":
        nested = '{"a":' * 900 + "1" + "}" * 900
        (write_run(folder, env_id="CartPole-v1") / "system.json").write_text(nested)
        return "system.json is nested more than 20 levels deep"
    if kind == "nested":
        (write_run(folder) / "config.json").write_text("[" * 100_000)
        return "config.json is not JSON: "
    folder.mkdir()
    return "is not the folder of a run: it has no config.json"


@pytest.mark.parametrize("goal", ["NaN", "1" + "0" * 400, "1e300", "true"])
def test_a_goal_that_is_not_a_number_is_left_out(tmp_path, goal):
    run = write_run(tmp_path / "run")
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(
        config.replace('"stop_at_return": 30.0', f'"stop_at_return": {goal}')
    )
    assert goal_of(group(read_runs([str(run)]))) is None
    (run / "config.json").write_text(config)
    assert goal_of(group(read_runs([str(run)]))) == 30.0


@pytest.mark.parametrize(
    "kind", ["begun", "failed", "other", "broken", "within", "nested", "empty"]
)
@pytest.mark.parametrize("command", ["plot", "report"])
def test_a_run_that_cannot_be_shown_is_a_one_line_error(folders, tmp_path, command, kind):
    says, out = spoiled(tmp_path / "x", kind), tmp_path / ("a.png", "a.html")[command == "report"]
    code, said, lines = ask(command, folders[0], str(tmp_path / "x"), "--out", str(out))
    assert (code, said, len(lines)) == (2, "", 1)
    assert says in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("command", ["plot", "report"])
def test_a_file_that_cannot_be_written_is_a_one_line_error(folders, tmp_path, command):
    ending = {"plot": "png", "report": "html"}[command]
    (tmp_path / "file").write_text("")
    os.symlink(tmp_path / "file", tmp_path / f"link.{ending}")
    for out in (tmp_path / f"link.{ending}", tmp_path / "file" / f"a.{ending}"):
        code, said, lines = ask(command, folders[0], "--out", str(out))
        assert (code, said, len(lines)) == (2, "", 1)
    assert (tmp_path / "file").read_text() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"link.{ending}"]


def test_a_run_given_twice_is_rejected(folders, tmp_path):
    code, _, lines = ask("plot", folders[0], folders[0] + "/.", "--out", str(tmp_path / "a.png"))
    assert (code, lines) == (2, ["error: a run is given twice: leave one out"])


def test_runs_with_an_old_name_of_an_option_belong_to_the_group_of_the_new(tmp_path):
    old = write_run(tmp_path / "old", seed=1) / "config.json"
    old.write_text(old.read_text().replace("restart_envs", "restart_lanes"))
    write_run(tmp_path / "new", seed=2)
    assert len(group(read_runs([str(tmp_path / "old"), str(tmp_path / "new")]))) == 1
