"""RunLock: held by one living process at a time."""

import errno
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastdqn.files import run_lock, run_lock_file
from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.files.run_lock import LockedError, LostRunError, RunLock
from fastdqn.system import process_identity

HOLDS = """
import sys
from pathlib import Path
from fastdqn.files.run_lock import RunLock, LockedError
try:
    with RunLock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
except LockedError as error:
    print(error, flush=True)
"""


def start(run: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDS, str(run)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(child: subprocess.Popen) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def holder(**changes) -> dict:
    """Returns the content of a lock of this process, with changes."""
    mine = {
        "pid": os.getpid(), "start": process_identity.start_of(os.getpid()),
        "host": platform.node(), "machine": process_identity.machine(),
        "namespace": process_identity.pid_namespace(), "token": "",
    }  # fmt: skip
    return {**mine, **changes}


def put(run: Path, content: dict | str, age: float = 0.0) -> None:
    """Writes a lock that was last renewed that many seconds ago."""
    text = content if isinstance(content, str) else json.dumps(content)
    (run / "lock").write_text(text)
    then = (run / "lock").stat().st_mtime - age
    os.utime(run / "lock", (then, then))


def read(run: Path) -> dict:
    return {**json.loads((run / "lock").read_text()), "token": ""}


def without_kernel_locks(monkeypatch) -> None:
    def refuse(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock_file.fcntl, "flock", refuse)


def test_a_lock_names_its_holder_and_is_removed_afterwards(tmp_path):
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    assert os.listdir(tmp_path) == []


def test_it_is_released_when_the_run_raises(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), RunLock(tmp_path):
        raise RuntimeError("ours")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_second_process_is_rejected_and_the_lock_of_a_killed_one_is_taken_over(tmp_path):
    child = start(tmp_path)
    assert line(child) == "held"
    with pytest.raises(LockedError, match=f"process {child.pid} is using this run: wait, or st"):
        RunLock(tmp_path).acquire()
    assert read(tmp_path)["pid"] == child.pid
    child.kill()
    # Not waited for yet: a zombie has no run either.
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with RunLock(tmp_path):
        assert read(tmp_path)["pid"] == os.getpid()
        other = start(tmp_path)
        assert f"process {os.getpid()} is using this run" in line(other)
        other.communicate()
    child.communicate()


def test_the_same_process_does_not_get_it_twice(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(LockedError):
            RunLock(tmp_path).acquire()
        assert read(tmp_path)["pid"] == os.getpid()


def test_a_reused_pid_is_recognized(tmp_path):
    put(tmp_path, holder(start=1))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_a_pid_of_no_process_is_recognized(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put(tmp_path, holder(pid=child.pid))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_another_host_name_on_the_same_machine_does_not_count_as_alive(tmp_path):
    """As after a container restart: the kernel reports that the lock is free."""
    put(tmp_path, holder(host="elsewhere", pid=1, start=1, namespace="another"))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_a_lock_of_another_machine_is_respected_while_it_is_renewed(tmp_path):
    put(tmp_path, holder(host="elsewhere", machine="another"))
    with pytest.raises(LockedError, match=r"on 'elsewhere' may be running: .* after 60 s"):
        RunLock(tmp_path).acquire()
    assert read(tmp_path)["host"] == "elsewhere"
    assert os.listdir(tmp_path) == ["lock"]


def test_a_stale_lock_of_another_machine_is_taken_over(tmp_path):
    put(tmp_path, holder(machine="another"), age=61)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_a_waiting_process_takes_the_lock_when_it_is_stale_by_its_own_clock(tmp_path, monkeypatch):
    """The clocks of the two machines and of the file system may differ."""
    now, lines = [0.0], []
    monkeypatch.setattr(run_lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 20))
    put(tmp_path, holder(machine="another"), age=-3_600)
    mine = RunLock(tmp_path)
    mine.acquire(waits=True, report=lines.append)
    assert read(tmp_path) == holder()
    mine.release()
    assert (len(lines), now[0]) == (1, 60.0)


def test_a_waiting_process_is_rejected_at_the_next_renewal(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: os.utime(tmp_path / "lock"))
    put(tmp_path, holder(machine="another"), age=30)
    with pytest.raises(LockedError, match="may be running"):
        RunLock(tmp_path).acquire(waits=True)


def test_the_holder_renews_its_lock(tmp_path, monkeypatch):
    beats, utime = threading.Event(), os.utime

    def note(fd):
        utime(fd)
        beats.set()

    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(os, "utime", note)
    with RunLock(tmp_path) as mine:
        mine.place.guard()
        utime(tmp_path / "lock", (0, 0))
        beats.clear()
        assert beats.wait(30)
        assert (tmp_path / "lock").stat().st_mtime > 0


def test_a_holder_whose_lock_was_taken_over_changes_nothing_more(tmp_path):
    with RunLock(tmp_path) as mine:
        write_whole(mine.place / "a", "1")
        put(tmp_path, holder(pid=7, host="elsewhere", machine="another"))
        with pytest.raises(LostRunError, match="process 7 on 'elsewhere' has taken over the run"):
            write_whole(mine.place / "a", "2")
    assert (tmp_path / "a").read_text() == "1"
    assert read(tmp_path)["pid"] == 7


def test_a_folder_is_not_changed_after_its_lock_was_released(tmp_path):
    """Its file descriptor may have been reused for another folder."""
    with RunLock(tmp_path) as mine:
        place = mine.place
    with pytest.raises(LostRunError, match="this process does not hold the lock of the run"):
        write_whole(place / "a", "1")
    assert os.listdir(tmp_path) == []


def test_a_deleted_lock_file_stops_no_process(tmp_path):
    with RunLock(tmp_path) as mine:
        (tmp_path / "lock").unlink()
        write_whole(mine.place / "a", "1")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_outlives_the_holder_does_not_keep_its_lock(tmp_path):
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    first = RunLock(tmp_path)
    first.acquire()
    child = fork.Process(target=theirs.recv)
    child.start()
    try:
        os.close(first._fd)  # as the end of the process would
        first._fd = -1
        with RunLock(tmp_path):
            assert read(tmp_path) == holder()
    finally:
        ours.send(None)
        child.join(30)
        first.release()


@pytest.mark.parametrize(
    "content",
    ["", "\0" * 80, "[]", "{", '{"pid": -1, "start": 1, "host": "a"}', "[" * 4096,
     '{"pid": 1, "start": 1, "host": "a"}', json.dumps(holder(pid=True)),
     json.dumps(holder(start="x")), json.dumps(holder(machine=None))],
)  # fmt: skip
def test_a_lock_that_names_no_process_is_taken_over(tmp_path, content):
    put(tmp_path, content)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_without_proc_or_kernel_locks_a_living_pid_holds_the_lock(tmp_path, monkeypatch):
    without_kernel_locks(monkeypatch)
    monkeypatch.setattr(process_identity, "_stat", lambda pid: None)
    put(tmp_path, holder(start=None))
    with pytest.raises(LockedError, match="is using this run"):
        RunLock(tmp_path).acquire()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put(tmp_path, holder(pid=child.pid, start=None))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder(start=None)


@pytest.mark.slow
def test_one_of_many_processes_takes_a_stale_lock(tmp_path):
    for _ in range(5):
        put(tmp_path, holder(start=1))
        taken, barrier = [], threading.Barrier(8)

        def take(taken=taken, barrier=barrier):
            mine = RunLock(tmp_path)
            barrier.wait(10)
            try:
                mine.acquire()
                taken.append(mine)
            except LockedError:
                pass

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        (winner,) = taken
        winner.release()
        assert os.listdir(tmp_path) == []


def test_a_lock_released_while_it_is_checked_is_not_taken_in_a_deleted_file(tmp_path, monkeypatch):
    guard, looks = run_lock.guard, []

    def release_first(fd):
        if not looks:
            (tmp_path / "lock").unlink()
        looks.append(fd)
        return guard(fd)

    put(tmp_path, holder(start=1))
    monkeypatch.setattr(run_lock, "guard", release_first)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    assert len(looks) == 2  # in vain, then for good


def test_a_lock_taken_over_by_another_process_is_not_deleted(tmp_path):
    mine = RunLock(tmp_path)
    mine.acquire()
    put(tmp_path, holder(host="elsewhere"))
    mine.release()
    mine.release()
    assert read(tmp_path)["host"] == "elsewhere"


def test_a_child_does_not_release_its_parents_lock(tmp_path, monkeypatch):
    mine = RunLock(tmp_path)
    mine.acquire()
    pid = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        mine.release()
    assert read(tmp_path)["pid"] == pid
    mine._over.set()  # release() stops the thread of its own process alone


def test_without_kernel_locks_renewals_and_pids_decide(tmp_path, monkeypatch):
    without_kernel_locks(monkeypatch)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
        with pytest.raises(LockedError, match=f"process {os.getpid()} is using this run"):
            RunLock(tmp_path).acquire()
    put(tmp_path, holder(start=1))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    put(tmp_path, holder(start=1, namespace="another"))  # a container's pids say nothing here
    with pytest.raises(LockedError, match="may be running"):
        RunLock(tmp_path).acquire()
    put(tmp_path, holder(start=1, namespace="another"), age=61)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


@pytest.mark.parametrize(("make", "problem"), [
    (lambda path: path.symlink_to(path.with_name("elsewhere")), "is a symbolic link"),
    (os.mkfifo, "is not a regular file"),
    (os.mkdir, "is not a regular file"),
])  # fmt: skip
def test_an_irregular_lock_file_is_not_written_to(tmp_path, make, problem):
    make(tmp_path / "lock")
    with pytest.raises(LockedError, match=problem):
        RunLock(tmp_path).acquire()
    assert os.listdir(tmp_path) == ["lock"]


def test_a_folder_that_cannot_be_locked_is_a_one_line_error(tmp_path):
    with pytest.raises(WriteError, match=r"cannot write .*/nowhere/lock: No such file"):
        RunLock(tmp_path / "nowhere").acquire()
