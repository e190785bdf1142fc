"""FolderCopy: contents, names that lead out, changed files, and crashes at every place."""

import os
from pathlib import Path

import pytest

from fastdqn.cluster import folder_copy
from fastdqn.cluster.folder_copy import (
    FileSize,
    FolderCopy,
    files_of,
    finish_copies,
    read_block,
    send_files,
)
from helpers.interrupts import interrupted


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(folder_copy, "BLOCK", 10)


def fill(folder: Path, content: bytes = b"a row of numbers") -> Path:
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    for name in ("metrics.jsonl", "checkpoints/latest", "checkpoints/step-1/replay"):
        (folder / name).write_bytes(content)
    (folder / "empty").touch()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def copy(source: Path, folder: Path) -> None:
    made = FolderCopy(folder)
    made.begin()
    files = files_of(source)
    send_files(files, lambda name, start: read_block(source, name, start), made.add)
    made.end(files)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_a_copy_has_the_same_files(tmp_path, size):
    source = fill(tmp_path / "source", bytes(range(size)))
    copy(source, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(source)
    assert {each.name for each in tmp_path.iterdir()} == {"source", "run"}


def test_a_copy_replaces_an_older_one_with_all_of_its_files(tmp_path):
    (fill(tmp_path / "run", b"old") / "of an older one").touch()
    copy(fill(tmp_path / "source"), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "source")


def test_locks_links_and_unfinished_files_are_left_out(tmp_path):
    source = fill(tmp_path / "source")
    (source / "lock").touch()
    (source / ".tmp-metrics.jsonl").touch()
    (source / ".tmp-checkpoint").mkdir()
    (source / ".tmp-checkpoint" / "x").touch()
    (source / "link").symlink_to("/etc/passwd")
    (source / "checkpoints" / "lock").touch()  # another file of this name
    assert [each.name for each in files_of(source)] == [
        "checkpoints/latest", "checkpoints/lock", "checkpoints/step-1/replay", "empty",
        "metrics.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    made = FolderCopy(tmp_path / "run")
    made.begin()
    with pytest.raises(ValueError, match="is not a file of a run folder"):
        made.add(name, b"x")


@pytest.mark.parametrize("change", [
    lambda files: files[:-1], lambda files: [*files, FileSize("more", 1)],
    lambda files: [FileSize(files[0].name, 99), *files[1:]],
])  # fmt: skip
def test_a_source_that_changes_leaves_the_folder_as_it_was(tmp_path, change):
    source, run = fill(tmp_path / "source"), fill(tmp_path / "run", b"old")
    before, made = contents(run), FolderCopy(run)
    made.begin()
    files = files_of(source)
    send_files(files, lambda name, start: read_block(source, name, start), made.add)
    with pytest.raises(OSError, match="is incomplete"):
        made.end(change(files))
    assert contents(run) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open files
@pytest.mark.parametrize("existed", [True, False])
def test_a_crash_at_any_place_leaves_the_old_folder_or_the_new_one(tmp_path, existed):
    """The next start puts a complete copy in place, and removes an incomplete one."""
    source = fill(tmp_path / "source")
    new, parent = contents(source), tmp_path / "base"
    parent.mkdir()
    run, old = parent / "run", {}
    if existed:
        old = contents(fill(run, b"old"))
    left = set()
    files = ("folder_copy.py", "durable_write.py", "shutil.py")
    for _ in interrupted(lambda: copy(source, run), files):
        finish_copies(parent)
        assert {each.name for each in parent.iterdir()} <= {"run"}
        found = contents(run)
        assert found in (old, new)
        left.add(found == new)
        if found == new:
            break
    assert left == {False, True}
    copy(source, run)
    assert contents(run) == new


def test_a_block_of_a_link_is_not_read(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic link"):
        read_block(tmp_path, "link", 0)


def test_copies_are_made_without_a_sync_that_fails(tmp_path, monkeypatch):
    """A full disk: the folder stays, and the next copy succeeds."""
    source, run = fill(tmp_path / "source"), fill(tmp_path / "run", b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            copy(source, run)
    assert contents(run)["metrics.jsonl"] == b"old"
    copy(source, run)
    assert contents(run) == contents(source)
