"""Arrays of a checkpoint that differ from the manifest."""

import os
import pickle

import numpy as np
import pytest
import safetensors.numpy

from fastdqn.checkpoints import loader as load_module
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.state_dict import RowLayout
from helpers.checkpoints import (
    LANES,
    ROWS_A_LANE,
    edit_manifest,
    reseal_column,
    reseal_file,
    weights_at,
)
from helpers.loading import (
    NEWEST,
    OFFER,
    column,
    delete,
    error_of,
    header,
    newest,
    npy,
    set_to,
    with_header,
)


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
        ((20).to_bytes(8, "little") + b" " * 20 + bytes(36), "header: is not a safetensors header"),
        (b"", "size: "),
        (pickle.dumps(weights_at(NEWEST)), "header: "),
    ],
)  # fmt: skip
def test_tensors_that_differ_from_the_manifest_are_rejected(run, data, problem):
    reseal_file(run, NEWEST, "weights.safetensors", data)
    message = error_of(run)
    assert message.startswith(f"{newest(run, 'weights.safetensors')}: {problem}")


def test_an_extra_tensor_is_rejected(run):
    path = newest(run, "weights.safetensors")
    edit_manifest(run, NEWEST, delete("weights", "0.bias"))
    assert error_of(run).startswith(f"{path}: size: ")
    extra = tensors(**{"1_bias": np.zeros(0, np.float32)})
    # As large as it should be, with a tensor of nothing.
    edit_manifest(
        run, NEWEST, set_to("weights", "0.bias", value={"dtype": "float32", "shape": [3]})
    )
    reseal_file(run, NEWEST, "weights.safetensors", extra)
    assert error_of(run).startswith(f"{path}: '1.bias': is not in the manifest")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (npy(np.zeros(5, np.int32)), "shape: (5,) is not (6,)"),
        (npy(np.zeros(6, np.int64)), "dtype: int64 is not int32"),
        (npy(np.zeros(6, ">i4")), "dtype: >i4 is not int32"),
        (npy(np.array([None] * 6), allow_pickle=True), "dtype: object is not int32"),
        (npy(np.zeros(6, np.int32), version=(2, 0)), "header: is not a .npy header"),
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
def test_a_column_that_differs_from_the_manifest_is_rejected(run, data, problem):
    reseal_column(run, NEWEST, -1, "action.npy", data)
    message = error_of(run)
    assert message.startswith(f"{column(run, 'action.npy')}: {problem}")
    assert message.endswith(OFFER)


@pytest.mark.parametrize(
    ("last", "problem"), [([9, 5], "env 1: rows 6 to 5"), ([9, 10], "sum: "), ([9, -9], "env 1")]
)
def test_invalid_bounds_of_rows_are_rejected(run, last, problem):
    reseal_column(run, NEWEST, -1, "last.npy", npy(np.array(last)))
    assert error_of(run).startswith(f"{column(run, 'last.npy')}: {problem}")


LAYOUT = RowLayout(
    LANES, ROWS_A_LANE, {"action": (np.dtype("i4"), ()), "obs": (np.dtype("i8"), (4,))}
)


def columns(**changes) -> dict:
    changed = {**LAYOUT.columns, **changes}
    return {name: column for name, column in changed.items() if column is not None}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lanes": 3}, "00000001/last.npy: envs: 2, but the run has 3"),
        ({"rows": 2}, "00000001/last.npy: rows: 3 of an environment, which has room for 2"),
        (
            {"columns": columns(action=(np.dtype("i8"), ()))},
            "action.npy: rows are int32 of shape (), expected int64 of shape ()",
        ),
        (
            {"columns": columns(obs=(np.dtype("i8"), (5,)))},
            "obs.npy: rows are int64 of shape (4,)",
        ),
        ({"columns": columns(obs=None)}, "obs.npy: rows are int64 of shape (4,), expected none"),
        (
            {"columns": columns(mask=(np.dtype("?"), (2,)))},
            "mask.npy: rows are none, expected bool of",
        ),
    ],
)
def test_rows_that_do_not_match_the_replay_are_rejected_before_reading(
    run, monkeypatch, change, problem
):
    checkpoint = load_checkpoint(run)
    monkeypatch.setattr(load_module, "_read_rows", None)
    with pytest.raises(CheckpointError) as caught:
        next(checkpoint.segments(LAYOUT._replace(**change)))
    assert problem in str(caught.value)


def test_rows_that_match_the_replay_are_read(run):
    assert len(list(load_checkpoint(run).segments(LAYOUT))) == 3


def test_arrays_larger_than_memory_are_a_one_line_error(run, monkeypatch):
    checkpoint = load_checkpoint(run)

    def refuse(*args):
        raise MemoryError

    monkeypatch.setattr(os, "readv", refuse)
    with pytest.raises(CheckpointError, match=r"\.npy: size: does not fit into memory"):
        next(checkpoint.segments())


def test_too_many_environments_are_rejected(run):
    count = (1 << 22) + 1

    def change(manifest):
        for segment in manifest["segments"]:
            for name in ("first.npy", "last.npy"):
                segment["files"][name] |= {"shape": [count], "bytes": 128 + 8 * count}

    edit_manifest(run, NEWEST, change)
    assert "first.npy: its shape" in error_of(run)
