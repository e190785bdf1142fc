"""Displays of a running study."""

import io

import pytest
from rich.console import Console

from fastdqn.study.live_table import (
    LiveTable,
    Silent,
    StateLines,
    progress_table,
    study_display,
)
from fastdqn.study.run_progress import Status
from fastdqn.study.run_queue import Entry, State
from fastdqn.study.study_folder import Run
from helpers.studies import THREE, make_entry


def entry(folder, seed: int = 1, **fields) -> Entry:
    found = make_entry(Run(THREE, seed, folder / f"seed-{seed}"))
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def drawn(table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_a_row_has_the_state_and_the_newest_numbers_of_a_run(tmp_path):
    status = Status(1_500, 0.75, 21.25, 0.5, 12_345.6, 61.0)
    running = entry(tmp_path, state=State.RUNNING, attempts=1, status=status)
    again = entry(tmp_path, 2, state=State.RUNNING, attempts=2, status=status)
    assert drawn(progress_table("x", [running, again, entry(tmp_path, 3)])) == [
        ["n-steps 3", "1", "running", "1,500   75%", "21.25", "0.5", "12,346", "1:01"],
        ["n-steps 3", "2", "running (again)", "1,500   75%", "21.25", "0.5", "12,346", "1:01"],
        ["n-steps 3", "3", "waiting", "-", "-", "-", "-", "-"],
    ]


def test_without_room_for_all_only_active_and_failed_runs_have_rows(tmp_path):
    entries = [entry(tmp_path, i, state=State.FINISHED) for i in range(20)]
    entries += [entry(tmp_path, 30, state=State.FAILED), entry(tmp_path, 31, state=State.RUNNING)]
    assert [row[1] for row in drawn(progress_table("x", entries, 10))] == ["30", "31"]
    assert len(drawn(progress_table("x", entries, 22))) == 22
    assert len(drawn(progress_table("x", entries))) == 22


def test_in_a_pipe_a_change_is_a_line(tmp_path, capsys):
    with study_display(tmp_path, quiet=False) as display:
        assert isinstance(display, StateLines)
        one = entry(tmp_path, state=State.RUNNING, attempts=1)
        display.changed(one)
        one.state, one.error = State.WAITING, "env 3 [died]"
        display.changed(one)
        one.state, one.attempts, one.origin = State.RUNNING, 2, "resumes from step 500"
        display.changed(one)
        one.state = State.FAILED
        display.changed(one)
        one.state, one.status = State.FINISHED, Status(600, 1.0, 3.0, 4.0)
        display.changed(one)
        display.show([one], final=True)
    assert capsys.readouterr().out.splitlines() == [
        "n-steps-3/seed-1: running",
        "n-steps-3/seed-1: failed, and is started again: env 3 [died]",
        "n-steps-3/seed-1: running again, resumes from step 500",
        "n-steps-3/seed-1: failed in 2 attempts: env 3 [died]",
        "n-steps-3/seed-1: finished after 600 steps, last evaluation 4",
    ]


def test_quiet_prints_nothing(tmp_path, capsys):
    with study_display(tmp_path, quiet=True) as display:
        assert isinstance(display, Silent)
        display.changed(entry(tmp_path))
        display.show([entry(tmp_path)])
    assert capsys.readouterr().out == ""


def test_a_terminal_has_the_table_and_errors_above_it(tmp_path):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, height=40, highlight=False)
    display = LiveTable(console, "a study")
    failed = entry(tmp_path, state=State.FAILED, error="env 3 died")
    display.changed(entry(tmp_path, state=State.RUNNING))
    display.changed(entry(tmp_path, 7, state=State.RUNNING, origin="resumes from step 500"))
    display.changed(failed)
    display.show([failed], final=True)
    display.close()
    text = file.getvalue()
    assert text.count("env 3 died") == 1
    assert text.count("running") == text.count("seed-7: running, resumes from step 500") == 1
    assert text.index("failed in 2 attempts: env 3 died") < text.rindex("a study")
    assert "1 failed" in text


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
def test_output_that_cannot_be_written_does_not_end_a_study(tmp_path, error):
    tried = []

    class Broken(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise error

    StateLines(Console(file=Broken())).changed(entry(tmp_path))
    assert tried
