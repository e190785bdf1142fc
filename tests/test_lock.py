"""The lock of a run: held by the living only, and by one of them."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastdqn.record import lock
from fastdqn.record.files import WriteError
from fastdqn.record.lock import LockedError, RunLock

HOLDS = """
import sys
from pathlib import Path
from fastdqn.record.lock import RunLock, LockedError
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
    """What a lock of this process holds, changed."""
    now = lock._stat(os.getpid())
    mine = {"pid": os.getpid(), "start": now and now[1], "host": socket.gethostname()}
    return {**mine, **changes}


def put(run: Path, content: dict | str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (run / "lock").write_text(text)


def read(run: Path) -> dict:
    return json.loads((run / "lock").read_text())


def test_a_lock_says_who_holds_it_and_is_gone_afterwards(tmp_path):
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    assert os.listdir(tmp_path) == []


def test_it_is_released_when_the_run_raises(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), RunLock(tmp_path):
        raise RuntimeError("ours")
    assert os.listdir(tmp_path) == []


def test_a_second_process_is_refused_and_a_killed_ones_lock_is_taken_over(tmp_path):
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


def test_a_pid_that_another_process_has_now_is_recognised(tmp_path):
    put(tmp_path, holder(start=1))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_a_pid_that_no_process_has_is_recognised(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put(tmp_path, holder(pid=child.pid))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_the_lock_of_another_host_is_left_alone_and_the_remedy_named(tmp_path):
    put(tmp_path, holder(host="elsewhere"))
    with pytest.raises(LockedError, match=f"on 'elsewhere' may be running: delete {tmp_path}/lock"):
        RunLock(tmp_path).acquire()
    assert read(tmp_path)["host"] == "elsewhere"


@pytest.mark.parametrize(
    "content",
    ["", "\0" * 80, "[]", "{", '{"pid": -1, "start": 1, "host": "a"}', "[" * 4096,
     '{"pid": true, "start": 1, "host": "a"}', '{"pid": 1, "start": "x", "host": "a"}'],
)  # fmt: skip
def test_a_lock_that_names_no_process_is_taken_over(tmp_path, content):
    put(tmp_path, content)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()


def test_without_proc_a_living_pid_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_stat", lambda pid: None)
    put(tmp_path, holder(start=None))
    with pytest.raises(LockedError):
        RunLock(tmp_path).acquire()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put(tmp_path, holder(pid=child.pid, start=None))
    with RunLock(tmp_path):
        assert read(tmp_path) == holder(start=None)


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    for _ in range(20):
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


def test_a_lock_released_while_it_is_looked_at_is_not_taken_in_a_deleted_file(
    tmp_path, monkeypatch
):
    guard, looks = lock._guard, []

    def release_first(fd):
        if not looks:
            (tmp_path / "lock").unlink()
        looks.append(fd)
        return guard(fd)

    put(tmp_path, holder(start=1))
    monkeypatch.setattr(lock, "_guard", release_first)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    assert len(looks) == 3  # in vain, then for good, and for the release


def test_a_lock_that_is_no_longer_ours_is_not_deleted(tmp_path):
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


def test_where_files_cannot_be_guarded_only_a_new_lock_is_taken(tmp_path, monkeypatch):
    def refuse(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with RunLock(tmp_path):
        assert read(tmp_path) == holder()
    put(tmp_path, holder(start=1))
    with pytest.raises(LockedError, match="another run may be using it: delete"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize(("make", "problem"), [
    (lambda path: path.symlink_to(path.with_name("elsewhere")), "is a symbolic link"),
    (os.mkfifo, "is not a regular file"),
    (os.mkdir, "is not a regular file"),
])  # fmt: skip
def test_what_is_no_file_of_ours_is_not_written_to(tmp_path, make, problem):
    make(tmp_path / "lock")
    with pytest.raises(LockedError, match=problem):
        RunLock(tmp_path).acquire()
    assert os.listdir(tmp_path) == ["lock"]


def test_a_folder_that_takes_no_lock_is_an_error_of_one_line(tmp_path):
    with pytest.raises(WriteError, match=r"cannot write .*/nowhere/lock: No such file"):
        RunLock(tmp_path / "nowhere").acquire()
