"""CheckpointWriter on a failing disk, and in a process that is killed."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import Checkpoint, load_checkpoint
from fastdqn.files import durable_write
from fastdqn.files.atomic_write import WriteError
from helpers.checkpoints import (
    CONFIG,
    assert_is,
    folder,
    listing,
    make_run,
    oldest_at,
    rows_at,
    state_at,
    weights_at,
    write,
)

# Operations of the os module that change a disk, or can fail on a bad one.
OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir", "link", "unlink", "rmdir")


class Crash(OSError):
    pass


class Disk:
    """Counts calls of os and makes number fails_at fail. After a crash all later ones fail, too.

    A crash loses what was written into files that were not synced.
    """

    def __init__(self, monkeypatch, run: Path, fails_at: int = -1, crashes: bool = True):
        self.run, self.fails_at, self.crashes = run, fails_at, crashes
        self.count, self.log, self.dirty = 0, [], set[int]()
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real):
        def operation(*args, **kwargs):
            if name == "open" and args[1] & os.O_DIRECTORY:  # on the way to a file
                return real(*args, **kwargs)
            number, self.count = self.count, self.count + 1
            if number == self.fails_at or (self.crashes and 0 <= self.fails_at < number):
                if name == "write" and number == self.fails_at:
                    real(args[0], args[1][: len(args[1]) // 2])
                raise Crash(errno.ENOSPC, "No space left on device")
            self.log.append((name, kind(args[0]) if name == "fsync" else args[0]))
            inode = os.fstat(args[0]).st_ino if name in ("write", "fsync") else 0
            if name == "fsync":  # a real one would only take time
                self.dirty.discard(inode)
                return None
            if name == "write":
                self.dirty.add(inode)
            return real(*args, **kwargs)

        return operation

    def lose_what_was_not_synced(self):
        for path in self.run.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.dirty:
                path.write_bytes(b"")


def kind(fd: int) -> str:
    return "folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"


# What a run holds before, and the steps that are written while the disk fails.
SITUATIONS = {"first": ((), 1), "later": ((1, 2, 3), 4)}


def attempt(run: Path, resumed: Checkpoint | None, steps: int) -> None:
    """Resumes from a checkpoint and writes one more. Raises what the writer raises."""
    write(CheckpointWriter(run, CONFIG, resumed), steps, run / "best.safetensors")


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    root = tmp_path_factory.mktemp("templates")
    return {name: make_run(root / name, *before) for name, (before, _) in SITUATIONS.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("situation", "crashes"), [("first", True), ("later", True), ("later", False)]
)
def test_the_latest_checkpoint_loads_after_any_failed_operation(
    tmp_path, templates, situation, crashes
):
    before, steps = SITUATIONS[situation]
    fails_at, failed = 0, True
    while failed:
        run = shutil.copytree(templates[situation], tmp_path / str(fails_at))
        resumed = load_checkpoint(run) if before else None
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, run, fails_at, crashes)
            try:
                attempt(run, resumed, steps)
            except (WriteError, CheckpointError) as error:
                assert_names_path_and_room(error, run)
            failed = disk.count > fails_at
        if crashes:
            disk.lose_what_was_not_synced()
        assert_goes_on(run, before, steps)
        shutil.rmtree(run)
        fails_at += 1
    assert fails_at > 30


def assert_names_path_and_room(error: Exception, run: Path) -> None:
    message = str(error)
    assert str(run) in message
    assert "\n" not in message
    if isinstance(error, WriteError):
        assert "bytes free" in message
        assert "needed" in message


def assert_goes_on(run: Path, before: tuple, steps: int) -> None:
    """The latest is the old checkpoint or the new one. The next writer cleans up."""
    if not before and not (run / "checkpoints" / "latest").exists():
        write(CheckpointWriter(run, CONFIG), steps)
    latest = load_checkpoint(run)
    assert latest.steps in (*before[-1:], steps)
    assert_is(latest, latest.steps)
    writer = CheckpointWriter(run, CONFIG, latest)
    write(writer, latest.steps + 1)
    assert_is(load_checkpoint(run), latest.steps + 1)
    assert_is(load_checkpoint(run, latest.name), latest.steps)
    names, segments = listing(run)
    assert names == ["latest", "segments", latest.name, folder(run, latest.steps + 1).name]
    listed = {s.entry.name for s in (*latest.listed, *load_checkpoint(run).listed)}
    assert segments == sorted(listed)


@pytest.mark.slow
def test_a_writer_whose_disk_failed_writes_the_next_checkpoint(tmp_path, templates):
    """After each possible failure, all rows are passed to the same writer again."""
    fails_at, failed = 0, True
    while failed:
        run = shutil.copytree(templates["later"], tmp_path / str(fails_at))
        writer = CheckpointWriter(run, CONFIG, load_checkpoint(run))
        failed = False
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, run, fails_at, crashes=False)
            with contextlib.suppress(WriteError):
                write(writer, 4, run / "best.safetensors")
            failed = disk.count > fails_at
        writer.check()
        assert_is(load_checkpoint(run), load_checkpoint(run).steps)
        write(writer, 5, run / "best.safetensors", full=True)
        assert_is(load_checkpoint(run), 5)
        names, segments = listing(run)
        assert len(names) == 4
        assert set(segments) >= {s.entry.name for s in load_checkpoint(run).listed}
        assert not [name for name in (*names, *segments) if name.startswith(".")]
        shutil.rmtree(run)
        fails_at += 1
    assert fails_at > 30


def test_files_are_synced_before_they_get_their_names_and_latest_comes_last(tmp_path, monkeypatch):
    run = make_run(tmp_path, 1, 2)
    writer = CheckpointWriter(run, CONFIG, load_checkpoint(run))
    disk = Disk(monkeypatch, run)
    write(writer, 3)
    steps = [
        name if name != "fsync" else f"fsync {what}"
        for name, what in disk.log
        if name in ("fsync", "rename", "replace", "unlink")
    ]
    segment = ["fsync file"] * 4 + ["fsync folder", "rename", "fsync folder"]
    checkpoint = ["fsync file"] * 3 + ["fsync folder", "rename", "fsync folder"]
    latest = ["fsync file", "replace", "fsync folder"]
    assert steps[: len(segment + checkpoint + latest)] == segment + checkpoint + latest
    # Only then is the oldest let go: it loses its name first.
    assert steps[len(segment + checkpoint + latest) :][:2] == ["rename", "unlink"]


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    """A rename would replace an empty folder."""
    (tmp_path / ".tmp-x").mkdir()
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"):
        durable_write.publish(tmp_path / ".tmp-x", tmp_path / "x")
    assert (tmp_path / ".tmp-x").is_dir()


def test_a_full_disk_is_reported_once_with_path_and_bytes(tmp_path, monkeypatch):
    writer = CheckpointWriter(make_run(tmp_path, 1), CONFIG, load_checkpoint(tmp_path))

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        writer.write(2, state_at(2), weights_at(2), rows_at(2), oldest=oldest_at(2))
        path = r"/segments/\.tmp-00000002/first\.npy: No space left"
        with pytest.raises(WriteError, match=path + r" on device; [0-9,]+ bytes free, [0-9,]+ nee"):
            writer.close()
    writer.check()
    assert listing(tmp_path)[1] == ["00000001"]
    write(writer, 2)
    assert_is(load_checkpoint(tmp_path), 2)


WRITES_ON = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.checkpoints import *
from fastdqn.checkpoints.loader import Checkpoint, load_checkpoint
run = Path({run!r})
checkpoint = load_checkpoint(run)
assert_is(checkpoint, checkpoint.steps)
writer, steps = CheckpointWriter(run, CONFIG, checkpoint), checkpoint.steps
while True:
    steps += 1
    write(writer, steps, run / "best.safetensors")
    print(steps, flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_repeatedly_is_resumed_each_time(tmp_path):
    run, reached = make_run(tmp_path, 1), 1
    code = WRITES_ON.format(tests=str(Path(__file__).parents[1]), run=str(run))
    for kills in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(3 + kills):
            reached = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.communicate()
        latest = load_checkpoint(run)
        assert latest.steps >= reached
        assert_is(latest, latest.steps)
