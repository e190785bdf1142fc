"""Reading checkpoints that are damaged or evil: one line that names the file, and nothing run."""

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_parts import (
    CONFIG,
    assert_is,
    edit_manifest,
    folder,
    make_run,
    reseal_column,
    reseal_file,
    seal,
    state_at,
    weights_at,
    write,
)

from fastdqn.record.checkpoint import CheckpointWriter
from fastdqn.record.layout import CheckpointError
from fastdqn.record.load_checkpoint import load_checkpoint
from fastdqn.record.reading import read_file

NEWEST, BEFORE = 3, "step-000000000002"
OFFER = f"; checkpoint {BEFORE} is whole: --checkpoint {BEFORE}"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("template"), 1, 2, NEWEST)


@pytest.fixture
def run(tmp_path, template):
    return shutil.copytree(template, tmp_path / "run")


def load_all(run: Path, name: str | None = None) -> None:
    for _ in load_checkpoint(run, name).segments():
        pass


def error_of(run: Path, name: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_all(run, name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def newest(run: Path, file: str) -> Path:
    return folder(run, NEWEST) / file


def column(run: Path, file: str) -> Path:
    """A file of the segment that only the newest checkpoint lists."""
    return run / "checkpoints" / "segments" / "00000003" / file


FILES = [
    "manifest.json", "weights.safetensors", "state.safetensors", "best.safetensors", "first.npy",
    "last.npy", "obs.npy", "action.npy",
]  # fmt: skip


def file_of(run: Path, name: str) -> Path:
    return column(run, name) if name.endswith(".npy") else newest(run, name)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def link_out(path: Path) -> None:
    outside = path.parents[3] / "outside"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["EVIL"])),)


def rename_a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        truncate, empty, lengthen, fill_with_zeros, link_out, make_pipe, make_folder, os.unlink,
        rename_a_pickle,
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_offered(
    run, monkeypatch, tmp_path, name, damage
):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    damage(file_of(run, name))
    message = error_of(run)
    assert message.startswith(f"{file_of(run, name)}: ")
    assert message.endswith(OFFER)
    assert not (tmp_path / "evil").exists()
    assert_is(load_checkpoint(run, BEFORE), 2)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_noticed(run, name):
    path, dice = file_of(run, name), random.Random(name)
    whole = path.read_bytes()
    for bit in dice.sample(range(8 * len(whole)), 25):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert error_of(run).startswith(f"{path}: ")
    path.write_bytes(whole)
    load_all(run)


def set_to(*keys, value):
    """A change of the manifest: the entry under keys becomes value."""

    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


def delete(*keys):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


def rename(*keys, to):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[to] = manifest.pop(keys[-1])

    return change


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


ARRAY = {"array": "000000", "dtype": "float64", "shape": [5]}
MANIFESTS = {
    "newer": (set_to("format", value=2), "format: 2 is newer than this fastdqn"),
    "format": (set_to("format", value="1"), "format: '1' is unknown"),
    "no format": (delete("format"), "format: None is unknown"),
    "no steps": (delete("steps"), "'steps': is missing or unknown"),
    "more": (set_to("pickle", value=1), "'pickle': is missing or unknown"),
    "steps": (set_to("steps", value=2), "steps: 2 is not what the folder is called"),
    "bool": (set_to("steps", value=True), "steps: is True, not a count"),
    "negative": (set_to("steps", value=-1), "steps: is -1, not a count"),
    "config": (set_to("config", value=[]), "config: is [], not an object"),
    "state": (set_to("state", value=None), "state: is None, not an object"),
    "mark": (set_to("state", "a", value={"array": "000000"}), "state.a: {'array'"),
    "twice": (set_to("state", "a", value=ARRAY), "state.a: array 000000 is used twice"),
    "in list": (set_to("state", "a", value=[ARRAY]), "state.a: is a list that holds an object"),
    "bits": (set_to("state", "a", value=1 << 128), "state.a: has more than 128 bits"),
    "depth": (set_to("state", "a", value=nested(80)), "is nested too deep"),
    "dtype": (set_to("state", "moments", "dtype", value="object"), "state.moments: dtype 'object'"),
    "shape": (set_to("state", "moments", "shape", value=[-5]), "state.moments: shape [-5]"),
    "huge": (set_to("state", "moments", "shape", value=[1 << 40]), "state.moments: shape [1099"),
    "zero": (set_to("state", "moments", "shape", value=[0, 1 << 40, 1 << 40]), "is too large"),
    "axes": (set_to("state", "moments", "shape", value=[1] * 65), "not a list of a few sizes"),
    "weight": (set_to("weights", "../w", value=1), "weights: '../w' is no tensor's name"),
    "bare": (set_to("weights", "w", value=1), "weights.w: is not a dtype and a shape"),
    "file": (set_to("files", "../../a", value=1), "files: are ['../../a'"),
    "no file": (delete("files", "state.safetensors"), "files: are"),
    "size": (set_to("files", "best.safetensors", "bytes", value=-1), "files.best.safetensors.by"),
    "hash": (set_to("files", "best.safetensors", "blake2b", value="0"), "files.best.safetensors.b"),
    "segments": (set_to("segments", value={}), "segments: is {}, not a list"),
    "segment": (set_to("segments", 0, value=3), "segments[0]: is not an object of name"),
    "out": (set_to("segments", 0, "name", value="../../etc"), "segments[0].name: '../../etc'"),
    "up": (set_to("segments", 0, "name", value=".."), "segments[0].name: '..'"),
    "order": (set_to("segments", 0, "name", value="00000009"), "segments: are not in order"),
    "column": (rename("segments", 0, "files", "obs.npy", to="../o.npy"), "'../o.npy' is no column"),
    "bounds": (delete("segments", 0, "files", "last.npy"), "lack first.npy or last.npy"),
    "total": (set_to("segments", 0, "last", value=7), "segments[0].files."),
    "lanes": (
        set_to("segments", 0, "files", "last.npy", "shape", value=[3]),
        "segments[0].files.last.npy: its shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_an_evil_manifest_with_a_right_checksum_is_refused_naming_the_field(run, case):
    change, problem = MANIFESTS[case]
    edit_manifest(run, NEWEST, change)
    message = error_of(run)
    assert message.startswith(f"{newest(run, 'manifest.json')}: ")
    assert problem in message
    assert message.endswith(OFFER)


@pytest.mark.parametrize(
    "rest",
    [b"", b"[]}\n", b'"a": NaN}\n', b'"a": 1, "a": 2}\n', b'"a": ' + b"[" * 100_000, b"\xff}\n",
     b'"a": ' + b"9" * 5000 + b"}\n"],
)  # fmt: skip
def test_a_manifest_that_is_no_json_of_ours_is_refused(run, rest):
    seal(newest(run, "manifest.json"), rest)
    assert error_of(run).startswith(f"{newest(run, 'manifest.json')}: content: ")


def test_the_error_of_an_evil_text_is_still_one_line(run):
    edit_manifest(run, NEWEST, set_to("state", "a\nb\x1b[2J", value={"array": 3}))
    assert "state.a?b?[2J: " in error_of(run)


def tensors(**changes) -> bytes:
    arrays = {**weights_at(NEWEST), **{k.replace("_", "."): v for k, v in changes.items()}}
    return safetensors.numpy.save({k: v for k, v in arrays.items() if v is not None})


BIAS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (tensors(**{"0_bias": None, "0_boas": BIAS}), "'0.bias': is missing"),
        (tensors(**{"1_bias": np.zeros(1, np.float32)}), "size: "),
        (tensors(**{"0_bias": None}), "size: "),
        (tensors(**{"0_bias": np.zeros((3, 1), np.float32)}), "0.bias: is float32 (3, 1)"),
        (tensors(**{"0_bias": np.zeros(3, np.int32)}), "0.bias: is int32"),
        ((1 << 62).to_bytes(8, "little") + bytes(36), "header: 4,611,686,018,427,387,904 bytes"),
        ((20).to_bytes(8, "little") + b" " * 20 + bytes(36), "header: is no safetensors header"),
        (b"", "size: "),
        (pickle.dumps(weights_at(NEWEST)), "header: "),
    ],
)  # fmt: skip
def test_tensors_that_are_not_the_manifests_are_refused(run, data, problem):
    reseal_file(run, NEWEST, "weights.safetensors", data)
    message = error_of(run)
    assert message.startswith(f"{newest(run, 'weights.safetensors')}: {problem}")


def test_a_tensor_too_many_is_refused(run):
    path = newest(run, "weights.safetensors")
    edit_manifest(run, NEWEST, delete("weights", "0.bias"))
    assert error_of(run).startswith(f"{path}: size: ")
    extra = tensors(**{"1_bias": np.zeros(0, np.float32)})
    # As large as it should be, with a tensor of nothing.
    edit_manifest(
        run, NEWEST, set_to("weights", "0.bias", value={"dtype": "float32", "shape": [3]})
    )
    reseal_file(run, NEWEST, "weights.safetensors", extra)
    assert error_of(run).startswith(f"{path}: '1.bias': is in the file only")


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def with_header(text: str, content: bytes = bytes(48)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def header(shape, descr="'<i4'", order=False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (npy(np.zeros(5, np.int32)), "shape: (5,) is not (6,)"),
        (npy(np.zeros(6, np.int64)), "dtype: int64 is not int32"),
        (npy(np.zeros(6, ">i4")), "dtype: >i4 is not int32"),
        (npy(np.array([None] * 6), allow_pickle=True), "dtype: object is not int32"),
        (npy(np.zeros(6, np.int32), version=(2, 0)), "header: is no .npy header"),
        (with_header(header((6,), order=True)), "dtype: int32 is not int32 in C order"),
        (with_header(header((1 << 40,))), "shape: (1099511627776,) is not (6,)"),
        (with_header(header((6,)), bytes(20)), "size: "),
        (with_header(header((6,)) + " " * 60_000), "header: "),
        (with_header(header("(" * 3000)), "header: "),
        (with_header(header("__import__('os').mkdir('evil')")), "header: "),
        (with_header("{}"), "header: "),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "header: "),
        (pickle.dumps(np.zeros(6)), "header: "),
        (b"", "header: "),
    ],
)
def test_a_column_that_is_not_the_manifests_is_refused(run, data, problem):
    reseal_column(run, NEWEST, -1, "action.npy", data)
    message = error_of(run)
    assert message.startswith(f"{column(run, 'action.npy')}: {problem}")
    assert message.endswith(OFFER)


@pytest.mark.parametrize(
    ("last", "problem"), [([9, 5], "lane 1: rows 6 to 5"), ([9, 10], "sum: "), ([9, -9], "lane 1")]
)
def test_bounds_of_rows_that_cannot_be_are_refused(run, last, problem):
    reseal_column(run, NEWEST, -1, "last.npy", npy(np.array(last)))
    assert error_of(run).startswith(f"{column(run, 'last.npy')}: {problem}")


@pytest.mark.parametrize("place", ["checkpoints", f"checkpoints/step-{NEWEST:012d}", "segment"])
def test_a_folder_that_is_a_link_is_not_followed(run, tmp_path, place):
    path = column(run, "").parent / "00000003" if place == "segment" else run / place
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert "is a symbolic link" in error_of(run)


@pytest.mark.parametrize(
    "latest", [b"", b"..\n", b"step-000000000003/../../x", b"\xff\xfe", b"a\nb\n", b"x" * 10_000]
)
def test_a_latest_that_names_no_checkpoint_is_refused_and_one_is_offered(run, latest):
    (run / "checkpoints" / "latest").write_bytes(latest)
    message = error_of(run)
    assert message.startswith(f"{run / 'checkpoints' / 'latest'}: name: ")
    assert message.endswith("checkpoint step-000000000003 is whole: --checkpoint step-000000000003")


@pytest.mark.parametrize(
    "name", ["..", "../..", "step-3", "", "a\0b", "step-000000000003\n", "latest"]
)
def test_a_name_that_is_no_checkpoints_is_refused(run, name):
    assert "is no checkpoint's name" in error_of(run, name)


def test_a_checkpoint_that_is_not_there_is_named(run, tmp_path):
    name = "step-000000000009"
    assert f"{run / 'checkpoints' / name}: file: does not exist" in error_of(run, name)
    assert "there is no checkpoint yet" in error_of(tmp_path)
    assert "there is no checkpoint yet" in error_of(tmp_path / "nowhere")


def test_one_that_shares_the_damage_is_not_offered(run):
    truncate(run / "checkpoints" / "segments" / "00000002" / "obs.npy")
    assert "is whole" not in error_of(run)


def test_an_unreadable_file_is_an_error_of_one_line(run, monkeypatch):
    monkeypatch.setattr(
        os, "pread", lambda *a: (_ for _ in ()).throw(OSError(5, "Input/output er"))
    )
    assert ": file: cannot be read: Input/output er" in error_of(run)


def peak_bytes(run: Path) -> int:
    tracemalloc.start()
    try:
        error_of(run)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lie_in_npy(run):
    count = 1 << 34
    data = with_header(header((count,)))

    def change(manifest):
        segment = manifest["segments"][-1]
        segment["last"] = segment["first"] + count
        for name in ("obs.npy", "action.npy"):
            segment["files"][name]["shape"][0] = count

    edit_manifest(run, NEWEST, change)
    reseal_column(run, NEWEST, -1, "action.npy", data)


def lie_in_manifest(run):
    edit_manifest(run, NEWEST, set_to("state", "moments", "shape", value=[1 << 36]))


def lie_of_size(run):
    edit_manifest(run, NEWEST, set_to("files", "best.safetensors", "bytes", value=1 << 40))


def lie_in_safetensors(run):
    reseal_file(run, NEWEST, "weights.safetensors", (1 << 40).to_bytes(8, "little") + bytes(40))


def huge_manifest(run):
    os.truncate(newest(run, "manifest.json"), 1 << 38)


def huge_latest(run):
    os.truncate(run / "checkpoints" / "latest", 1 << 38)


def huge_array(run):
    os.truncate(column(run, "obs.npy"), 1 << 38)


@pytest.mark.parametrize(
    "lie",
    [lie_in_npy, lie_in_manifest, lie_of_size, lie_in_safetensors, huge_manifest, huge_latest,
     huge_array],
)  # fmt: skip
def test_no_memory_is_allocated_on_a_files_word(run, lie):
    lie(run)
    assert peak_bytes(run) < 4 << 20


NO_PICKLE = """
import builtins, importlib.abc, os, sys
from pathlib import Path
from fastdqn.record.load_checkpoint import load_checkpoint
from fastdqn.record.layout import CheckpointError
import pickle, _pickle, marshal

def refuse(*args, **kwargs):
    os.write(2, b"unpickled")
    os._exit(3)

for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        if hasattr(module, name):
            setattr(module, name, refuse)
marshal.loads = marshal.load = refuse
real_import = builtins.__import__

def checked_import(name, *args, **kwargs):
    if name.split(".")[0] in ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "torch"):
        refuse()
    return real_import(name, *args, **kwargs)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("dill", "cloudpickle", "joblib", "torch"):
            refuse()

builtins.__import__ = checked_import
sys.meta_path.insert(0, Finder())
for run in sys.argv[1:]:
    try:
        rows = list(load_checkpoint(Path(run)).segments())
        print("loaded", len(rows))
    except CheckpointError as error:
        print("refused")
"""


def test_nothing_is_unpickled_while_loading_whole_or_evil_checkpoints(run, tmp_path, monkeypatch):
    evil = str(tmp_path / "evil")
    monkeypatch.setenv("EVIL", evil)
    objects = shutil.copytree(run, tmp_path / "objects")
    array = np.array([Evil()] * 6)
    reseal_column(objects, NEWEST, -1, "action.npy", npy(array, allow_pickle=True))
    bare = shutil.copytree(run, tmp_path / "bare")
    reseal_file(bare, NEWEST, "state.safetensors", pickle.dumps(Evil()))
    column_file = shutil.copytree(run, tmp_path / "column")
    reseal_column(column_file, NEWEST, -1, "action.npy", pickle.dumps(Evil()))
    command = [sys.executable, "-c", NO_PICKLE, *map(str, (run, objects, bare, column_file))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.split("\n") == ["loaded 3", "refused", "refused", "refused", ""], result
    assert result.returncode == 0
    assert not Path(evil).exists()


def test_columns_are_read_one_segment_at_a_time(run):
    segments = load_checkpoint(run).segments()
    for _ in range(2):
        next(segments)
    truncate(column(run, "obs.npy"))
    with pytest.raises(CheckpointError, match=r"obs\.npy: size"):
        next(segments)


def test_a_whole_checkpoint_is_loaded_with_what_stands_beside_it(run):
    newest(run, "notes.txt").write_text("mine")
    assert_is(load_checkpoint(run), NEWEST)
    assert json.loads(newest(run, "manifest.json").read_text())["config"] == CONFIG
    assert list(load_checkpoint(run).state) == list(state_at(NEWEST))


def test_a_checkpoint_without_a_best_has_none(tmp_path):
    write(CheckpointWriter(tmp_path, CONFIG), 1)
    assert load_checkpoint(tmp_path).best is None
    with pytest.raises(CheckpointError, match="does not exist"):
        read_file(tmp_path, ("checkpoints", "x"), None)  # pyright: ignore[reportArgumentType]
