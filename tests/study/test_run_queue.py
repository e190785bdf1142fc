"""RunQueue: order, failures, stops and finished runs, with a scheduler without processes."""

import pytest

from fastdqn.study.run_queue import State
from helpers.report_pages import write_run
from helpers.studies import FakeScheduler, make_queue, scores


def states(queue) -> dict[str, str]:
    return {entry.run.name: str(entry.state) for entry in queue.entries}


def test_every_variant_gets_a_seed_before_the_next_seed_starts(tmp_path):
    scheduler = FakeScheduler()
    queue, lines = make_queue(tmp_path, scheduler)
    queue.train()
    names = ["base/seed-1", "n-steps-3/seed-1", "base/seed-2", "n-steps-3/seed-2"]
    assert [job.key for job in scheduler.started] == names
    assert states(queue) == dict.fromkeys(names, "finished")
    assert lines.lines[:3] == [
        "base/seed-1 running", "base/seed-1 finished", "n-steps-3/seed-1 running",
    ]  # fmt: skip
    assert queue.entries[0].status.steps == 2_000


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_no_more_runs_are_started_than_there_is_room_for(tmp_path, jobs):
    scheduler = FakeScheduler(jobs)  # asserts that it has room
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1, 2, 3))
    queue.train()
    assert queue.count(State.FINISHED) == len(scheduler.started) == 6


def test_a_finished_run_is_not_started(tmp_path):
    write_run(tmp_path / "base" / "seed-1", summary=scores(1, 2))
    scheduler = FakeScheduler(2)
    queue, lines = make_queue(tmp_path, scheduler, seeds=(1,))
    queue.train()
    assert [job.key for job in scheduler.started] == ["n-steps-3/seed-1"]
    assert queue.count(State.FINISHED) == 2
    assert not [line for line in lines.lines if line.startswith("base")]


@pytest.mark.parametrize("reason", ["interrupted", "failed: x", "budget spent; pending"])
def test_an_unfinished_run_is_started(tmp_path, reason):
    folder = write_run(tmp_path / "base" / "seed-1", summary={"exit_reason": reason})
    scheduler = FakeScheduler(2, endless=("base/seed-1",))
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1,))
    queue.train(stop=lambda: len(scheduler.started) == 2)
    assert str(folder) in scheduler.started[0].words


def test_a_run_that_fails_once_is_repeated(tmp_path):
    scheduler = FakeScheduler(2, fails={"base/seed-2": 1})
    queue, lines = make_queue(tmp_path, scheduler)
    queue.train()
    assert queue.failed() == []
    assert queue.count(State.FINISHED) == 4
    assert [job.key for job in scheduler.started].count("base/seed-2") == 2
    assert "base/seed-2 waiting" in lines.lines


def test_a_run_that_fails_again_is_named_with_its_error_and_the_others_go_on(tmp_path):
    scheduler = FakeScheduler(fails={"base/seed-1": 2})
    queue, _ = make_queue(tmp_path, scheduler)
    queue.train()
    (failed,) = queue.failed()
    assert (failed.run.name, failed.attempts) == ("base/seed-1", 2)
    assert failed.error == "env 3 died"
    assert failed.run.log.read_text().count("error: ") == 2
    assert queue.count(State.FINISHED) == 3


def test_success_without_a_finished_run_is_a_failure(tmp_path, monkeypatch):
    scheduler = FakeScheduler()
    monkeypatch.setattr(scheduler, "_train", lambda job: 0)
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1,))
    queue.train()
    assert [entry.error for entry in queue.failed()] == ["it ended with exit code 0"] * 2


@pytest.mark.parametrize(
    ("code", "says"), [(-9, "it was killed by SIGKILL"), (3, "it ended with exit code 3")]
)
def test_a_run_without_output_is_named_by_its_exit_code(tmp_path, monkeypatch, code, says):
    scheduler = FakeScheduler()
    monkeypatch.setattr(scheduler, "_train", lambda job: code)
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1,))
    queue.train()
    assert {entry.error for entry in queue.failed()} == {says}


def test_a_stop_lets_running_runs_end_and_starts_no_other(tmp_path):
    scheduler = FakeScheduler(endless=("n-steps-3/seed-1",))
    queue, lines = make_queue(tmp_path, scheduler)
    queue.train(stop=lambda: len(scheduler.started) == 2)
    assert scheduler.stopped
    assert states(queue) == {
        "base/seed-1": "finished", "n-steps-3/seed-1": "interrupted",
        "base/seed-2": "waiting", "n-steps-3/seed-2": "waiting",
    }  # fmt: skip
    assert lines.lines[-2:] == ["n-steps-3/seed-1 stopping", "n-steps-3/seed-1 interrupted"]


def test_a_checkpoint_is_asked_only_of_runs_that_have_begun(tmp_path, monkeypatch):
    """SIGUSR1 ends a process that is still starting."""
    begun = write_run(tmp_path / "base" / "seed-1", summary={"exit_reason": "interrupted"})
    endless = ("base/seed-1", "n-steps-3/seed-1")
    scheduler = FakeScheduler(2, endless=endless)
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1,))
    asked = iter([True, True])

    def save() -> bool:
        if next(asked, False):
            if not scheduler.saved:
                queue.entries[0].started = 0.0  # its files are newer
            return True
        return False

    queue.train(stop=lambda: len(scheduler.saved) >= 2, save=save)
    assert begun.exists()
    assert scheduler.saved == ["base/seed-1"] * 2


def test_a_run_that_was_begun_before_shows_where_it_continues(tmp_path):
    """As after a kill: with a later checkpoint, with the first one alone, and with none."""
    unfinished = {"exit_reason": "interrupted"}
    for seed, steps in ((1, 10_011), (2, 0), (3, None)):
        run = write_run(tmp_path / "base" / f"seed-{seed}", summary=unfinished)
        if steps is not None:
            (run / "checkpoints").mkdir()
            (run / "checkpoints" / "latest").write_text(f"step-{steps:012d}\n")
    scheduler = FakeScheduler(9, endless=[f"base/seed-{seed}" for seed in (1, 2, 3)])
    queue, _ = make_queue(tmp_path, scheduler, seeds=(1, 2, 3))
    queue.train(stop=lambda: len(scheduler.started) == 6)
    origins = {entry.run.name: entry.origin for entry in queue.entries}
    again = "begins again: no checkpoint after step 0"
    assert [origins[f"base/seed-{seed}"] for seed in (1, 2, 3)] == [
        "resumes from step 10,011", again, again,
    ]  # fmt: skip
    assert origins["n-steps-3/seed-1"] == ""
