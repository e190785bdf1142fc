"""CheckpointWriter: what is written is restored, and errors are raised to the caller."""

import errno
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.format import DTYPES, CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.checkpoints.state_codec import own
from fastdqn.files.atomic_write import WriteError
from fastdqn.state_dict import Rows
from helpers.checkpoints import (
    CONFIG,
    assert_equal,
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

scalars = (
    st.none() | st.booleans() | st.integers(-(1 << 128) + 1, (1 << 128) - 1) | st.floats()
    | st.text(st.characters(), max_size=5)
)  # fmt: skip
arrays = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: nps.arrays(dtype, nps.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
keys = st.sampled_from(["array", "float", "dict", "dtype", "shape", "a"]) | st.text(max_size=4)
states = st.dictionaries(
    keys,
    st.recursive(
        scalars | st.lists(scalars, max_size=3) | arrays,
        lambda inner: st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


in_no_time = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@given(state=states)
@in_no_time
def test_any_state_is_restored_bit_for_bit(state):
    with tempfile.TemporaryDirectory() as run:
        writer = CheckpointWriter(Path(run), CONFIG)
        writer.write(7, state, {})
        writer.close()
        assert_equal(load_checkpoint(Path(run)).state, state)


@pytest.mark.slow
@given(data=st.data())
@in_no_time
def test_any_rows_are_restored_bit_for_bit(data):
    bounds = st.tuples(st.integers(0, 1 << 40), st.integers(0, 4))
    lanes = data.draw(st.lists(bounds, min_size=1, max_size=4))
    first = np.array([a for a, _ in lanes])
    last = first + [n for _, n in lanes]
    count = int((last - first).sum())
    some = st.sampled_from(list(DTYPES.values())).flatmap(
        lambda dtype: nps.arrays(dtype, nps.array_shapes(max_dims=2).map(lambda s: (count, *s)))
    )
    columns = data.draw(st.dictionaries(st.sampled_from(["obs", "action", "b_2"]), some))
    with tempfile.TemporaryDirectory() as run:
        writer = CheckpointWriter(Path(run), CONFIG)
        writer.write(7, {}, {}, Rows(first, last, columns), oldest=first)
        writer.close()
        found = list(load_checkpoint(Path(run)).segments())
        if count:
            (rows,) = found
            assert_equal(dict(rows._asdict()), dict(Rows(first, last, columns)._asdict()))
        else:
            assert found == []


def test_weights_config_and_best_are_restored(tmp_path):
    checkpoint = load_checkpoint(make_run(tmp_path, 1))
    assert_is(checkpoint, 1)
    assert checkpoint.best == b"best weights"
    assert checkpoint.folder == folder(tmp_path, 1)


def test_the_best_file_is_stored_as_it_was_at_the_call(tmp_path, monkeypatch):
    run = make_run(tmp_path, 1)
    gate, mkdir = threading.Event(), os.mkdir

    def wait_and_mkdir(*args, **kwargs):
        assert gate.wait(10)
        mkdir(*args, **kwargs)

    writer = CheckpointWriter(run, CONFIG, load_checkpoint(run))
    monkeypatch.setattr(os, "mkdir", wait_and_mkdir)
    writer.write(2, {}, {}, best=run / "best.safetensors")
    (run / "new").write_bytes(b"a better one")
    os.replace(run / "new", run / "best.safetensors")
    gate.set()
    writer.close()
    assert load_checkpoint(run).best == b"best weights"


def test_arrays_changed_after_the_call_are_stored_as_they_were(tmp_path, monkeypatch):
    gate, mkdir = threading.Event(), os.mkdir

    def wait_and_mkdir(*args, **kwargs):
        assert gate.wait(10)
        mkdir(*args, **kwargs)

    writer = CheckpointWriter(tmp_path, CONFIG)
    monkeypatch.setattr(os, "mkdir", wait_and_mkdir)
    state, weights, rows = state_at(1), weights_at(1), rows_at(1)
    writer.write(1, state, weights, rows, oldest=oldest_at(1))
    assert not writer.ready
    with pytest.raises(RuntimeError, match="still being written"):
        writer.write(2, {}, {})
    for array in (state["moments"], weights["0.weight"], rows.last, *rows.columns.values()):
        array[...] = 99
    state["progress"]["steps"] = 99
    gate.set()
    writer.close()
    assert writer.ready
    assert_is(load_checkpoint(tmp_path), 1)


def test_an_array_is_copied_unless_it_is_read_only_and_has_its_own_memory():
    array = np.arange(6)
    assert not np.shares_memory(own(array, "a"), array)
    view = array[:]
    view.flags.writeable = False
    assert not np.shares_memory(own(view, "a"), array)
    array.flags.writeable = False
    assert own(array, "a") is array
    assert own(np.arange(6).astype(">i8"), "a").dtype == np.dtype("=i8")


def test_a_written_file_is_never_changed(tmp_path):
    run = make_run(tmp_path, 1)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files(run)}
    write(CheckpointWriter(run, CONFIG, load_checkpoint(run)), 2)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files(run)}
    latest = run / "checkpoints" / "latest"
    assert {k: v for k, v in after.items() if k in before and k != latest} == {
        k: v for k, v in before.items() if k != latest
    }


def files(run: Path) -> list[Path]:
    return [path for path in (run / "checkpoints").rglob("*") if path.is_file()]


def test_the_last_two_checkpoints_and_the_segments_they_list_are_kept(tmp_path):
    run = make_run(tmp_path, *range(1, 8))
    names, segments = listing(run)
    assert names == ["latest", "segments", folder(run, 6).name, folder(run, 7).name]
    # At step 6 rows 10 and later are of use, which begin in the fourth segment.
    assert segments == [f"{i:08d}" for i in (4, 5, 6, 7)]
    assert [s.entry.name for s in load_checkpoint(run).listed] == segments[1:]
    assert_is(load_checkpoint(run), 7)
    assert_is(load_checkpoint(run, folder(run, 6).name), 6)


@pytest.mark.slow
def test_a_segment_stays_while_one_environment_needs_it(tmp_path):
    writer = CheckpointWriter(tmp_path, CONFIG)

    def add(steps, first, last, oldest):
        first, last = np.array(first), np.array(last)
        rows = Rows(first, last, {"a": np.zeros((last - first).sum(), np.int8)})
        writer.write(steps, {}, {}, rows, oldest=np.array(oldest))
        writer.close()
        return [s.entry.name[-1] for s in load_checkpoint(tmp_path).listed]

    assert add(1, [0, 0], [4, 4], [0, 0]) == ["1"]
    assert add(2, [4, 4], [9, 4], [4, 0]) == ["1", "2"]
    assert add(3, [9, 4], [12, 6], [8, 3]) == ["1", "2", "3"]
    assert add(4, [12, 6], [15, 8], [8, 4]) == ["2", "3", "4"]
    assert add(5, [15, 8], [18, 8], [9, 5]) == ["3", "4", "5"]
    # Nothing new: no segment of nothing.
    assert add(6, [18, 8], [18, 8], [9, 5]) == ["3", "4", "5"]
    # All that is of use at once: it replaces the rest.
    assert add(7, [9, 5], [18, 8], [9, 5]) == ["6"]


def test_rows_that_do_not_follow_those_on_disk_are_an_error_naming_the_environment(tmp_path):
    writer = CheckpointWriter(make_run(tmp_path, 1), CONFIG, load_checkpoint(tmp_path))
    with pytest.raises(ValueError, match=r"env 0: rows 6 to 9 do not follow .* end at 3"):
        write(writer, 3)
    with pytest.raises(ValueError, match="env 0: rows 0 to 0 do not follow"):
        writer.write(3, {}, {}, Rows(np.zeros(2, int), np.zeros(2, int), {}))


def test_a_checkpoint_without_rows_lists_none(tmp_path):
    writer = CheckpointWriter(make_run(tmp_path, 1), CONFIG, load_checkpoint(tmp_path))
    writer.write(2, {}, {})
    writer.close()
    assert list(load_checkpoint(tmp_path).segments()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": {"a": {"b": (1, 2)}}}, "state.a.b is a tuple"),
        ({"state": {"a": np.float32(1)}}, "state.a is a float32"),
        ({"state": {"a": 1 << 128}}, "state.a has 129 bits"),
        ({"state": {"a": [np.zeros(1)]}}, r"state.a\[0\] is a ndarray"),
        ({"state": {3: 1}}, "state has the key 3"),
        ({"state": {"a": np.array([None])}}, "state.a is an array of object"),
        ({"state": {"a": np.zeros(1, "S3")}}, "state.a is an array of"),
        ({"weights": {"../w": np.zeros(1)}}, "not a valid name for a tensor"),
        ({"weights": {"w": np.zeros(1, complex)}}, "weights w is an array of complex128"),
        ({"steps": 1}, "there is a checkpoint at 1 already"),
        ({"steps": 10**12}, r"in \[0, 10\*\*12\)"),
        (
            {"rows": rows_at(2)._replace(columns={"a/b": np.zeros(6)})},
            "not a valid name for a column",
        ),
        ({"rows": rows_at(2)._replace(columns={"a": np.zeros(5)})}, "column a has shape"),
        ({"rows": rows_at(2)._replace(last=np.zeros(2, int))}, "not one range per environment"),
        ({"oldest": np.zeros(3, int)}, "oldest has shape"),
    ],
)
def test_a_value_that_cannot_be_stored_raises_on_the_calling_thread(tmp_path, change, message):
    writer = CheckpointWriter(make_run(tmp_path, 1), CONFIG, load_checkpoint(tmp_path))
    given = {"steps": 2, "state": {}, "weights": {}, "rows": rows_at(2), **change}
    with pytest.raises(ValueError, match=message):
        writer.write(**given)
    write(writer, 2)
    assert_is(load_checkpoint(tmp_path), 2)


def test_a_recursive_state_is_rejected(tmp_path):
    state: dict = {}
    state["a"] = state
    with pytest.raises(ValueError, match="nested more than"):
        CheckpointWriter(tmp_path, CONFIG).write(1, state, {})


def test_a_run_with_checkpoints_is_resumed_or_rejected(tmp_path):
    run = make_run(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="resume from a checkpoint"):
        CheckpointWriter(run, CONFIG)
    other = make_run(tmp_path / "b", 1)
    with pytest.raises(ValueError, match="is not a checkpoint of"):
        CheckpointWriter(other, CONFIG, load_checkpoint(run))


@pytest.mark.slow
def test_resuming_from_an_older_checkpoint_deletes_newer_ones(tmp_path):
    run = make_run(tmp_path, 1, 2, 3)
    kept = [folder(run, 2).name]
    writer = CheckpointWriter(run, CONFIG, load_checkpoint(run, *kept))
    assert listing(run) == (["latest", "segments", *kept], ["00000001", "00000002"])
    assert_is(load_checkpoint(run), 2)
    assert writer.newest_steps == 2
    write(writer, 3)
    assert_is(load_checkpoint(run), 3)
    assert_is(load_checkpoint(run, folder(run, 2).name), 2)


def test_an_earlier_checkpoint_that_is_unreadable_for_now_keeps_its_segments(tmp_path, monkeypatch):
    run = make_run(tmp_path, 1, 2, 3, 4, 5)
    latest, earlier, before = load_checkpoint(run), folder(run, 4).name, listing(run)
    with monkeypatch.context() as patch:
        patch.setattr("fastdqn.checkpoints.store.read_manifest", refuse_to_read)
        writer = CheckpointWriter(run, CONFIG, latest)
    assert listing(run) == before
    assert_is(load_checkpoint(run, earlier), 4)
    write(writer, 6)
    assert_is(load_checkpoint(run, latest.name), 5)


def refuse_to_read(run, name):
    raise CheckpointError("Input/output error")


def test_leftovers_are_deleted_and_other_files_are_not(tmp_path):
    run = make_run(tmp_path, 1, 2)
    root, before = run / "checkpoints", listing(run)
    for name in (".tmp-step-000000000003", "step-000000000009", "segments/00000007"):
        (root / name).mkdir()
        (root / name / "manifest.json").write_text("{")
    (root / ".tmp-latest").write_text("")
    (root / ".tmp-best").symlink_to(run / "best.safetensors")
    (root / "segments" / ".tmp-00000008").symlink_to(run)
    (root / "notes.txt").write_text("mine")
    CheckpointWriter(run, CONFIG, load_checkpoint(run))
    assert listing(run) == (sorted([*before[0], "notes.txt"]), before[1])
    assert (run / "best.safetensors").read_bytes() == b"best weights"


def test_an_error_other_than_of_the_disk_is_raised_too(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdqn.checkpoints.manifest.MAX_MANIFEST_BYTES", 10)
    writer = CheckpointWriter(tmp_path, CONFIG)
    writer.write(1, {}, {})
    with pytest.raises(ValueError, match="the manifest has"):
        writer.close()
    assert listing(tmp_path) == (["segments"], [])


def test_close_waits_for_a_slow_disk(tmp_path):
    """The last checkpoint of a run is worth the time, and a sync reports no progress."""
    waited, lines = [], []
    writer = CheckpointWriter(tmp_path, CONFIG, report=lines.append)

    class Slow(threading.Thread):
        def is_alive(self):
            return len(waited) < 3

        def join(self, timeout=None):
            waited.append(timeout)

    writer._thread = Slow()
    writer.close()
    assert waited == [30.0] * 3
    assert lines == ["the disk is slow: waiting until the last checkpoint is written"]


def test_space_is_freed_before_an_error_is_reported(tmp_path, monkeypatch):
    """The caller needs free space to record that the disk is full."""
    writer, seen = CheckpointWriter(tmp_path, CONFIG), []
    clean = writer._store.clean

    def look_and_clean():
        seen.append(writer._error)
        clean()

    def refuse(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._store, "clean", look_and_clean)
    monkeypatch.setattr(os, "fsync", refuse)
    writer.write(1, {}, {})
    with pytest.raises(WriteError):
        writer.close()
    assert seen == [None]


def test_without_hard_links_the_best_is_copied(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert load_checkpoint(make_run(tmp_path, 1)).best == b"best weights"


def test_a_missing_best_file_raises_at_the_call(tmp_path):
    writer = CheckpointWriter(tmp_path, CONFIG)
    with pytest.raises(WriteError, match="nowhere"):
        writer.write(1, {}, {}, best=tmp_path / "nowhere")
