"""Progress of a run, read from files that another process is writing."""

import json

import pytest

from fastdqn.study.run_progress import RunProgress, Status, newest_row
from helpers.report_pages import metrics_row, write_run


def test_a_run_that_has_not_begun_has_no_numbers(tmp_path):
    assert RunProgress(tmp_path / "run", 2_000, None).read() == Status()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert RunProgress(tmp_path / "run", 2_000, None).read() == Status()


def test_the_newest_numbers_are_read(tmp_path):
    folder = write_run(tmp_path / "run", rows=5)
    progress = RunProgress(folder, 2_000, None)
    found = progress.read()
    assert found._replace(rate=None) == Status(500, 0.25, 6.0, 12.0, None, None)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 700, "eval/mean_reward": 3.0}) + "\n")
        file.write(json.dumps(metrics_row(10, 1) | {"time/fps": 200.0}) + "\n")
        file.write('{"step": 1100, "time/total_timesteps": 1100')  # not finished
    assert progress.read() == Status(1_000, 0.5, 11.0, 12.0, 200.0, 5.0)


def test_a_budget_of_episodes_is_one_too(tmp_path):
    folder = write_run(tmp_path / "run", rows=5)
    assert RunProgress(folder, None, 20).read().share == 0.5
    assert RunProgress(folder, 100_000, 20).read().share == 0.5
    assert RunProgress(folder, None, None).read().share == 0.0


@pytest.mark.parametrize("rows", [1, 2, 200, 2_000])
def test_the_last_row_is_found_in_a_file_of_any_size(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"step": i, "x": i if i % 3 == 0 else None, "kind": "a"}) for i in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    found, other = newest_row(path, "step"), newest_row(path, "x", kind="a")
    assert found is not None
    assert found["step"] == rows - 1
    assert other is not None
    assert other["step"] == (rows - 1) // 3 * 3
    assert newest_row(path, "x", kind="b") is None


@pytest.mark.parametrize(
    "text", ["\0\n", "[1]\n", '"x"\n', "{\n", '{"step": 1e999}\n', '{"step": true}\n', "[" * 20_000]
)
def test_a_row_that_is_none_is_left_out(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"step": 3}}\n{text}' if len(text) < 99 else text)
    assert newest_row(path, "step") == ({"step": 3} if len(text) < 99 else None)


def test_a_folder_in_place_of_a_file_has_no_rows(tmp_path):
    assert newest_row(tmp_path, "step") is None
