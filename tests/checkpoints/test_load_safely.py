"""Reading checkpoints executes no code, and allocates no memory by unverified sizes."""

import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastdqn.checkpoints.checked_read import read_array
from fastdqn.checkpoints.format import ArraySpec, CheckpointError, FileEntry
from fastdqn.files.checksum import digest
from helpers.checkpoints import edit_manifest, reseal_column, reseal_file
from helpers.loading import (
    NEWEST,
    Evil,
    column,
    error_of,
    header,
    newest,
    npy,
    set_to,
    with_header,
)


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
def test_memory_is_not_allocated_by_unverified_sizes(run, lie):
    lie(run)
    assert peak_bytes(run) < 4 << 20


def test_an_array_larger_than_its_file_is_rejected_before_allocation(tmp_path):
    """Header, manifest and checksum agree. Only the size of the file differs."""
    data = with_header(header((1 << 34,)))
    (tmp_path / "a.npy").write_bytes(data)
    entry = FileEntry(len(data), digest(data), ArraySpec("int32", (1 << 34,)))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"a\.npy: size: "):
            read_array(tmp_path, ("a.npy",), entry)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


NO_PICKLE = """
import builtins, importlib.abc, os, sys
from pathlib import Path
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.checkpoints.format import CheckpointError
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


def test_loading_intact_or_malicious_checkpoints_unpickles_nothing(run, tmp_path, monkeypatch):
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
