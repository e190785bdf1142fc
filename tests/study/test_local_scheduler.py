"""LocalScheduler: shares of the cores, exit codes, stops, and the end with the parent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.study import local_scheduler
from fastdqn.study.local_scheduler import LocalScheduler, Share, shares
from fastdqn.study.scheduler import Job

# A program in place of run_process.py, which gets the same arguments.
_SHOW = """
import os, sys
print(sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"], *sys.argv[2:], flush=True)
print("error: on standard error", file=sys.stderr)
raise SystemExit(3)
"""
_WAIT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
signal.signal(signal.SIGUSR1, lambda *_: print("saved", flush=True))
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Replaces the program of a run by a text."""

    def replace(text: str) -> None:
        (tmp_path / "program.py").write_text(text)
        monkeypatch.setattr(local_scheduler, "_PROGRAM", tmp_path / "program.py")

    return replace


def cores(monkeypatch, count: int, usable: int | None = None, limit: int | None = None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)
    monkeypatch.setattr(local_scheduler, "usable_cores", lambda: usable or count)
    monkeypatch.setattr(local_scheduler, "thread_limit", lambda: limit)


def ended(scheduler, count: int = 1) -> list:
    found = []
    while len(found) < count:
        found += scheduler.wait(1.0)
    return found


def wait_for(path: Path, text: str, scheduler) -> None:
    while text not in path.read_text():
        assert scheduler.wait(0.01) == []


def test_jobs_divide_the_cores(monkeypatch):
    cores(monkeypatch, 8)
    assert shares(1) == [Share(tuple(range(8)), 8)]
    assert shares(2) == [Share((0, 1, 2, 3), 4), Share((4, 5, 6, 7), 4)]
    assert [(len(each.cores), each.threads) for each in shares(3)] == [(2, 2), (3, 3), (3, 3)]
    assert sorted(core for each in shares(5) for core in each.cores) == list(range(8))


def test_more_jobs_than_cores_share_them_in_turn(monkeypatch):
    cores(monkeypatch, 2)
    found = shares(5)
    assert {each.threads for each in found} == {1}
    assert {each.cores for each in found} == {(0,), (1,)}


def test_a_quota_limits_the_threads_and_not_the_cores(monkeypatch):
    cores(monkeypatch, 8, usable=2)
    assert shares(2) == [Share((0, 1, 2, 3), 1), Share((4, 5, 6, 7), 1)]


def test_a_limit_of_threads_by_the_user_stays(monkeypatch):
    cores(monkeypatch, 8, limit=3)
    assert [each.threads for each in shares(2)] == [3, 3]
    assert [each.threads for each in shares(4)] == [2, 2, 2, 2]


def test_without_affinity_the_system_decides(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(local_scheduler, "usable_cores", lambda: 4)
    monkeypatch.setattr(local_scheduler, "thread_limit", lambda: None)
    assert shares(2) == [Share((), 2), Share((), 2)]


def test_a_job_gets_its_words_and_its_output_goes_to_the_log(tmp_path, program):
    program(_SHOW)
    scheduler, log = LocalScheduler(1), tmp_path / "a b.log"
    log.write_text("before\n")
    assert scheduler.free == 1
    scheduler.start(Job("x", ("train", "a b"), log))
    assert scheduler.free == 0
    assert ended(scheduler) == [("x", 3)]
    assert scheduler.free == 1
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[1].endswith(" train a b")
    assert lines[2] == "error: on standard error"


def test_stop_and_save_are_signals(tmp_path, program):
    program(_WAIT)
    scheduler, log = LocalScheduler(2), tmp_path / "log"
    try:
        scheduler.start(Job("x", (), log))
        wait_for(log, "ready", scheduler)
        scheduler.save("x")
        wait_for(log, "saved", scheduler)
        scheduler.stop()
        assert ended(scheduler) == [("x", 130)]
    finally:
        scheduler.close()


def test_close_kills_what_runs(tmp_path, program):
    program(_WAIT)
    scheduler = LocalScheduler(1)
    scheduler.start(Job("x", (), tmp_path / "log"))
    scheduler.close()
    assert scheduler.wait(0.0) == []


def test_a_job_that_cannot_start_ends_with_a_line_in_its_log(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    scheduler, log = LocalScheduler(1), tmp_path / "log"
    scheduler.start(Job("x", (), log))
    assert scheduler.free == 1
    assert scheduler.wait(1.0) == [("x", 1)]
    assert log.read_text().startswith("error: the process cannot start: ")
    scheduler.start(Job("x", (), tmp_path / "missing" / "log"))
    assert scheduler.wait(1.0) == [("x", 1)]


@pytest.mark.slow
def test_a_run_process_takes_its_cores_and_runs_the_command_line(tmp_path):
    scheduler, log = LocalScheduler(1), tmp_path / "log"
    scheduler.start(Job("x", ("--version",), log))
    assert ended(scheduler) == [("x", 0)]
    assert log.read_text().startswith("fastdqn ")


_PARENT = """
import sys
from pathlib import Path
from fastdqn.study import local_scheduler
from fastdqn.study.scheduler import Job
local_scheduler._PROGRAM = Path(sys.argv[1])
scheduler = local_scheduler.LocalScheduler(1)
scheduler.start(Job("x", (), Path(sys.argv[2])))
print(scheduler._running["x"].process.pid, flush=True)
while True: scheduler.wait(10)
"""
_CHILD = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("run_process", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.end_with(int(sys.argv[1]))
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone ends a child")
def test_a_run_ends_with_a_killed_parent(tmp_path):
    program, log = tmp_path / "child.py", tmp_path / "log"
    path = str(Path(local_scheduler.__file__).with_name("run_process.py"))
    program.write_text(_CHILD.format(path=path))
    command = [sys.executable, "-c", _PARENT, str(program), str(log)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    end = os.pidfd_open(pid)
    try:
        while not log.exists() or "ready" not in log.read_text():
            assert parent.poll() is None
        parent.kill()
        parent.wait()
        assert _ended(end)
    finally:
        os.close(end)


def _ended(pidfd: int) -> bool:
    """Waits for the end of a process that is not a child."""
    import select

    return bool(select.select([pidfd], [], [], 60)[0])


def test_a_run_whose_parent_has_died_before_does_not_start(tmp_path):
    path = str(Path(local_scheduler.__file__).with_name("run_process.py"))
    command = [sys.executable, "-P", path, "1", "", "--version"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")
