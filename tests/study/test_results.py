"""Results of a study: returns of runs, numbers of the table, and remarks."""

import io
import json

import pytest
from rich.console import Console

from fastdqn.study.results import (
    RunResult,
    SolvedAt,
    missing_runs,
    remarks,
    results_record,
    results_table,
    run_result,
    study_results,
)
from fastdqn.study.study_folder import Run, Study
from helpers.report_pages import write_run
from helpers.studies import BASE, THREE, scores


def made(folder, **returns: list[float]) -> Study:
    """Writes finished runs with these returns of the last weights; those of the best are 100."""
    study = Study("cartpole", (), (BASE, THREE), tuple(range(1, 6)))
    for variant in study.variants:
        for seed, last in enumerate(returns.get(variant.name.replace("-", "_"), []), 1):
            write_run(folder / variant.name / f"seed-{seed}", summary=scores(last, 100.0))
    return study


def test_the_numbers_of_a_study_by_hand(tmp_path):
    study = made(tmp_path, base=[1, 2, 3, 4, 50], n_steps_3=[4, 5, 6, 7])
    base, three = study_results(study, tmp_path)
    assert (base.mean, base.iqm) == (12.0, 3.0)  # the IQM without 1 and 50
    assert (three.mean, three.iqm) == (5.5, 5.5)  # without 4 and 7
    assert [run.seed for run in base.runs] == [1, 2, 3, 4, 5]
    # 4 is above 3 of 5 and ties with one; 5, 6 and 7 are above 4 of 5.
    assert three.improvement == pytest.approx((3.5 + 4 + 4 + 4) / 20)
    assert (base.improvement, base.improvement_interval) == (None, None)  # against itself
    assert base.interval is not None
    assert base.interval.low < 3.0 < base.interval.high <= 50.0
    assert base.best_mean == 100.0


def shown(study: Study, folder) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=140)
    console.print(results_table(study_results(study, folder)))
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_the_table_has_a_row_for_each_variant(tmp_path):
    study = made(tmp_path, base=[1, 1], n_steps_3=[0.955, 0.955])
    assert shown(study, tmp_path) == [
        ["base", "2", "1", "1", "1 to 1", "", "", "100"],
        ["n-steps 3", "2", "0.955", "0.955", "0.955 to 0.955", "0.00", "0.00 to 0.00", "100"],
    ]


def test_a_study_of_one_variant_has_no_comparison(tmp_path):
    study = made(tmp_path, base=[1, 1])._replace(variants=(BASE,))
    assert shown(study, tmp_path) == [["base", "2", "1", "1", "1 to 1", "100"]]


def test_one_seed_has_no_interval_and_a_remark_says_so(tmp_path):
    study = made(tmp_path, base=[3, 4], n_steps_3=[5])
    results = study_results(study, tmp_path)
    assert shown(study, tmp_path)[1][1:] == ["1", "5", "5", "-", "1.00", "-", "100"]
    line, caution = remarks(results)
    assert line.startswith("no interval for n-steps 3: one finished run")
    assert caution == "intervals of fewer than 5 seeds are rough guesses"


@pytest.mark.parametrize(
    ("base", "three", "line"),
    [
        ([1, 2], [3, 4], ["intervals of fewer than 5 seeds are rough guesses"]),
        ([1, 4], [2, 3], ["intervals of fewer than 5 seeds are rough guesses: these seeds do not "
                          "decide whether n-steps 3 is better than base"]),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], []),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], ["these seeds do not decide whether n-steps 3 is better "
                                            "than base"]),
    ],
)  # fmt: skip
def test_a_line_says_what_few_seeds_do_not_decide(tmp_path, base, three, line):
    study = made(tmp_path, base=base, n_steps_3=three)
    assert remarks(study_results(study, tmp_path)) == line


def test_keys_of_info_are_in_the_table_and_in_the_file(tmp_path):
    """The mean over runs, and how many episodes have a key that some lack."""
    study = made(tmp_path)._replace(variants=(BASE,), seeds=(1, 2))
    for seed, rate in ((1, 0.5), (2, 0.75)):
        last = {
            "mean_return": 1.0, "episodes": 100, "mean_is_success": rate, "mean_keys": 8.0 * seed,
            "mean_keys_episodes": 10 * seed,
        }  # fmt: skip
        summary = {**scores(1.0, 1.0), "eval_last": last}
        keys = ("is_success", "keys", "absent")
        write_run(tmp_path / "base" / f"seed-{seed}", summary=summary, info_keys=keys)
    row = ["base", "2", "1", "1", "1 to 1", "0.625", "12 over 30 of 200 episodes", "1"]
    assert shown(study, tmp_path) == [row]
    (record,) = results_record(study, study_results(study, tmp_path), {})["variants"]
    assert record["info"] == {
        "is_success": {"mean": 0.625, "last": [0.5, 0.75], "episodes_with_it": [100, 100]},
        "keys": {"mean": 12.0, "last": [8.0, 16.0], "episodes_with_it": [10, 20]},
    }


def test_unfinished_runs_do_not_count(tmp_path):
    study = made(tmp_path, base=[3, 4])
    write_run(tmp_path / "base" / "seed-3", summary={"exit_reason": "interrupted"})
    base, three = study_results(study, tmp_path)
    assert [run.seed for run in base.runs] == [1, 2]
    assert (three.runs, three.mean, three.improvement) == ([], None, None)
    assert shown(study, tmp_path)[1] == ["n-steps 3", "0", "-", "-", "-", "-", "-", "-"]


def test_the_table_says_when_runs_were_solved(tmp_path):
    study = made(tmp_path, base=[1, 1, 1], n_steps_3=[1, 1])

    def change(seed: int, **changed) -> None:
        path = tmp_path / "base" / f"seed-{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    for seed, (steps, episodes) in enumerate([(1_000, 10), (20_000, 40)], 1):
        solved = {"threshold": 475.0, "steps": steps, "seconds": 1.0}
        change(seed, solved=solved, episodes=episodes, exit_reason="solved")
    rows = shown(study, tmp_path)
    assert rows[0][-4:] == ["100", "2 of 3", "10,500", "25"]
    assert rows[1][-4:] == ["100", "0 of 2", "-", "-"]
    lines = remarks(study_results(study, tmp_path))
    assert "medians of base are those of the solved runs alone" in lines
    change(2, exit_reason="budget spent")  # it was continued
    assert shown(study, tmp_path)[0][-4:] == ["100", "2 of 3", "10,500", "10"]
    change(2, exit_reason="solved")
    record = results_record(study, study_results(study, tmp_path), {})
    assert record["variants"][0]["solved"] == [
        {"steps": 1_000, "episodes": 10}, {"steps": 20_000, "episodes": 40}, None,
    ]  # fmt: skip


def test_the_result_of_a_run_without_eval_last_is_its_last_evaluation(tmp_path):
    """Older runs. The best weights count if they are the last."""
    run = Run(BASE, 1, tmp_path / "run")
    assert run_result(run) is None
    last, best = {"mean_return": 7.0}, {"mean_return": 9.0, "steps_at_eval": 1_000}
    solved = SolvedAt(1_500, 40)
    write_run(run.folder, summary={"eval": best, "eval_last": last})
    assert run_result(run) == RunResult(1, 7.0, 9.0, {}, solved)
    summary = json.loads((run.folder / "summary.json").read_text())
    del summary["eval_last"]
    (run.folder / "summary.json").write_text(json.dumps(summary))
    assert run_result(run) == RunResult(1, 42.0, 9.0, {}, solved)  # the row at step 2,000
    summary["eval"]["steps_at_eval"] = 2_000
    (run.folder / "summary.json").write_text(json.dumps(summary))
    assert run_result(run) == RunResult(1, 9.0, 9.0, {}, solved)


def test_runs_that_were_not_evaluated_have_a_remark(tmp_path):
    study = made(tmp_path)._replace(variants=(BASE,))
    for seed in (1, 2):
        write_run(
            tmp_path / "base" / f"seed-{seed}", rows=1, summary={"eval": None, "solved": None}
        )
    assert shown(study, tmp_path) == [["base", "2", "-", "-", "-", "-"]]
    (line,) = remarks(study_results(study, tmp_path))
    assert line.startswith("no returns for base: a run was not evaluated")


def test_numbers_without_the_runs_that_failed_have_a_line(tmp_path):
    study = made(tmp_path, base=[1, 2, 3, 4, 5], n_steps_3=[3, 4, 5])
    results = study_results(study, tmp_path)
    (line,) = missing_runs(study, results, ())
    assert line.startswith("n-steps 3: 2 of 5 runs failed, and its numbers do not include them")
    assert missing_runs(study, results, ("n-steps-3/seed-4", "n-steps-3/seed-5")) == []
    nothing = [each._replace(runs=[]) for each in results]  # the table shows that
    assert missing_runs(study, nothing, ()) == []


def test_the_file_of_results_has_every_number(tmp_path):
    study = made(tmp_path, base=[1, 2], n_steps_3=[3, 4])
    record = json.loads(json.dumps(results_record(study, study_results(study, tmp_path), {})))
    assert record["variants"][0]["probability_of_improvement"] is None
    assert record["variants"][1] == {
        "name": "n-steps-3", "options": ["--n-steps", "3"], "seeds": [1, 2], "last": [3.0, 4.0],
        "best": [100.0, 100.0], "mean": 3.5, "iqm": 3.5, "iqm_interval": [3.0, 4.0],
        "probability_of_improvement": 1.0, "probability_of_improvement_interval": [1.0, 1.0],
        "mean_best": 100.0, "solved": [None, None], "info": {},
    }  # fmt: skip


def test_a_label_with_brackets_is_not_markup(tmp_path):
    odd = THREE._replace(options=("--env-kwargs", "a=[bold]"))
    study = made(tmp_path, base=[1, 1])._replace(variants=(BASE, odd))
    assert shown(study, tmp_path)[1][0] == "env-kwargs a=[bold]"
