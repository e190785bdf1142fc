"""Damaged checkpoints: a one-line error names the file and suggests another checkpoint."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest

from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.checked_read import read_file
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from helpers.checkpoints import CONFIG, assert_is, state_at, write
from helpers.loading import (
    BEFORE,
    NEWEST,
    OFFER,
    Evil,
    column,
    error_of,
    load_all,
    newest,
    truncate,
)

FILES = [
    "manifest.json", "weights.safetensors", "state.safetensors", "best.safetensors", "first.npy",
    "last.npy", "obs.npy", "action.npy",
]  # fmt: skip


def file_of(run: Path, name: str) -> Path:
    return column(run, name) if name.endswith(".npy") else newest(run, name)


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


def rename_a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        truncate, empty, lengthen, fill_with_zeros, link_out, make_pipe, make_folder, os.unlink,
        rename_a_pickle,
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_the_previous_checkpoint_suggested(
    run, monkeypatch, tmp_path, name, damage
):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    damage(file_of(run, name))
    message = error_of(run)
    assert message.startswith(f"{file_of(run, name)}: ")
    assert message.endswith(OFFER)
    assert not (tmp_path / "evil").exists()
    assert_is(load_checkpoint(run, BEFORE), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_detected(run, name):
    path, dice = file_of(run, name), random.Random(name)
    whole = path.read_bytes()
    for bit in dice.sample(range(8 * len(whole)), 25):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert error_of(run).startswith(f"{path}: ")
    path.write_bytes(whole)
    load_all(run)


@pytest.mark.parametrize("place", ["checkpoints", f"checkpoints/step-{NEWEST:012d}", "segment"])
def test_a_folder_that_is_a_link_is_not_followed(run, tmp_path, place):
    path = column(run, "").parent / "00000003" if place == "segment" else run / place
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert "is a symbolic link" in error_of(run)


@pytest.mark.parametrize(
    "latest", [b"", b"..\n", b"step-000000000003/../../x", b"\xff\xfe", b"a\nb\n", b"x" * 10_000]
)
def test_an_invalid_latest_file_is_an_error_that_suggests_a_checkpoint(run, latest):
    (run / "checkpoints" / "latest").write_bytes(latest)
    message = error_of(run)
    assert message.startswith(f"{run / 'checkpoints' / 'latest'}: name: ")
    assert message.endswith(
        "checkpoint step-000000000003 is intact: use --checkpoint step-000000000003"
    )


@pytest.mark.parametrize(
    "name", ["..", "../..", "step-3", "", "a\0b", "step-000000000003\n", "latest"]
)
def test_an_invalid_name_of_a_checkpoint_is_rejected(run, name):
    assert "is not the name of a checkpoint" in error_of(run, name)


def test_a_missing_checkpoint_is_named(run, tmp_path):
    name = "step-000000000009"
    assert f"{run / 'checkpoints' / name}: file: does not exist" in error_of(run, name)
    assert "there is no checkpoint yet" in error_of(tmp_path)
    assert "there is no checkpoint yet" in error_of(tmp_path / "nowhere")


def test_a_checkpoint_with_the_same_damage_is_not_suggested(run):
    truncate(run / "checkpoints" / "segments" / "00000002" / "obs.npy")
    assert "is intact" not in error_of(run)


def test_an_unreadable_file_is_a_one_line_error(run, monkeypatch):
    monkeypatch.setattr(
        os, "pread", lambda *a: (_ for _ in ()).throw(OSError(5, "Input/output er"))
    )
    assert ": file: cannot be read: Input/output er" in error_of(run)


def test_columns_are_read_one_segment_at_a_time(run):
    segments = load_checkpoint(run).segments()
    for _ in range(2):
        next(segments)
    truncate(column(run, "obs.npy"))
    with pytest.raises(CheckpointError, match=r"obs\.npy: size"):
        next(segments)


def test_an_intact_checkpoint_is_loaded_despite_other_files(run):
    newest(run, "notes.txt").write_text("mine")
    assert_is(load_checkpoint(run), NEWEST)
    assert json.loads(newest(run, "manifest.json").read_text())["config"] == CONFIG
    assert list(load_checkpoint(run).state) == list(state_at(NEWEST))


def test_a_checkpoint_without_a_best_has_none(tmp_path):
    write(CheckpointWriter(tmp_path, CONFIG), 1)
    assert load_checkpoint(tmp_path).best is None
    with pytest.raises(CheckpointError, match="does not exist"):
        read_file(tmp_path, ("checkpoints", "x"), None)  # pyright: ignore[reportArgumentType]
