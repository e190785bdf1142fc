"""Size limit of the rows on disk, also if environments step at different rates."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastdqn.checkpoints import store
from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.checkpoints.store import MOST_REPLAYS
from fastdqn.state_dict import State
from fastdqn.training.checkpointer import rows_to_save
from helpers.checkpoints import CONFIG
from helpers.oracles import make_replay

BOTH = np.arange(2)
WHICH_LANES: dict[str, Callable[[int], np.ndarray]] = {
    "even": lambda turn: BOTH,
    "slow": lambda turn: BOTH if turn % 10 == 0 else BOTH[1:],
    "stuck": lambda turn: BOTH if turn < 5 else BOTH[1:],
}


def disk_bytes(run: Path) -> int:
    return sum(file.stat().st_size for file in run.rglob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", WHICH_LANES)
@pytest.mark.parametrize("turns_each", [25, 130, 240, 700])
def test_rows_on_disk_are_bounded_and_restored(tmp_path, monkeypatch, lanes, turns_each):
    replay = make_replay(2, rows=256, obs_shape=(64,))
    replay.start(BOTH, np.zeros((2, 64)))
    writer, saved = CheckpointWriter(tmp_path, CONFIG), np.zeros(2, np.int64)
    peaks, last = [], {}
    sweep = store._sweep
    monkeypatch.setattr(
        store, "_sweep", lambda *args: (peaks.append(disk_bytes(tmp_path)), sweep(*args))
    )
    for turn in range(1, 2_101):
        chosen = WHICH_LANES[lanes](turn)
        replay.add(chosen, chosen, chosen * 1.0, np.full((len(chosen), 64), turn))
        if turn % turns_each == 0:
            rows = rows_to_save(replay, saved, writer)
            saved = rows.last
            state: State = {"replay": replay.state()}
            writer.write(turn, state, {}, rows, oldest=replay.oldest())
            writer.close()
            last = replay.rows_since(np.zeros(2, np.int64)).columns
    assert max(peaks) <= MOST_REPLAYS * 1.02 * replay.nbytes  # headers are small, and not none
    found = load_checkpoint(tmp_path)
    other = make_replay(2, rows=256, obs_shape=(64,), seed=9)
    other.load_state(found.state["replay"], found.segments(other.layout()))
    for column, stored in other.rows_since(np.zeros(2, np.int64)).columns.items():
        np.testing.assert_array_equal(stored, last[column])


def test_rows_are_copied_once(tmp_path):
    replay = make_replay(4, rows=2_000, obs_shape=(250,))
    replay.start(range(4), np.zeros((4, 250)))
    for _ in range(2_000):
        replay.add(range(4), [0] * 4, [0.0] * 4, np.zeros((4, 250)))
    writer, none = CheckpointWriter(tmp_path, CONFIG), np.zeros(4, np.int64)
    tracemalloc.start()
    try:
        rows = replay.rows_since(none)
        writer.write(1, {}, {}, rows, oldest=replay.oldest())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    writer.close()
    assert peak < 1.2 * replay.nbytes


@pytest.mark.slow
def test_too_many_segments_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_MAX_SEGMENTS", 5)
    replay = make_replay(1, rows=256)
    replay.start([0], np.zeros(1))
    writer, saved = CheckpointWriter(tmp_path, CONFIG), np.zeros(1, np.int64)
    counts = []
    for turn in range(1, 20):
        replay.add([0], [0], [1.0], np.ones(1))
        rows = rows_to_save(replay, saved, writer)
        saved = rows.last
        writer.write(turn, {}, {}, rows, oldest=replay.oldest())
        writer.close()
        counts.append(len(load_checkpoint(tmp_path).listed))
    assert max(counts) == 5
    assert counts[:7] == [1, 1, 2, 3, 4, 5, 1]  # two rows are written again each time
