"""Small checkpoints whose content follows from their number of steps."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.files.checksum import digest
from fastdqn.state_dict import Rows

CONFIG = {"env_id": "CartPole-v1", "num_envs": 2, "gamma": 0.99}
LANES, ROWS_A_STEP, ROWS_A_LANE = 2, 3, 8  # a lane gets 3 rows a step, and keeps 8


def state_at(steps: int) -> dict[str, Any]:
    return {
        "progress": {"steps": steps, "updates": [1, 2.5, "a", None, True]},
        "generator": {"name": "PCG64", "state": (1 << 127) + steps},
        "moments": np.arange(5, dtype=np.float64) + steps,
        "ended": np.array(True),
        "nothing": np.empty((0, 3), np.uint64),
    }


def weights_at(steps: int) -> dict[str, np.ndarray]:
    return {"0.weight": np.full((2, 3), steps, np.float32), "0.bias": np.zeros(3, np.float32)}


def oldest_at(steps: int) -> np.ndarray:
    return np.maximum(0, np.full(LANES, steps * ROWS_A_STEP) - ROWS_A_LANE)


def rows_at(steps: int, first: np.ndarray | None = None) -> Rows:
    """Returns the rows up to steps, from first [LANES]. The values of a row encode its position."""
    first = np.full(LANES, (steps - 1) * ROWS_A_STEP, np.int64) if first is None else first
    last = np.full(LANES, steps * ROWS_A_STEP, np.int64)
    number = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return Rows(first, last, {"action": number.astype(np.int32), "obs": np.stack([number] * 4, 1)})


def write(writer: CheckpointWriter, steps: int, best: Path | None = None, full=False) -> None:
    """Writes the checkpoint of steps and waits for it."""
    oldest = oldest_at(steps)
    rows = rows_at(steps, oldest) if full else rows_at(steps)
    writer.write(steps, state_at(steps), weights_at(steps), rows, best, oldest)
    writer.close()


def make_run(run: Path, *steps: int) -> Path:
    run.mkdir(exist_ok=True)
    (run / "best.safetensors").write_bytes(b"best weights")
    writer = CheckpointWriter(run, CONFIG)
    for each in steps:
        write(writer, each, run / "best.safetensors")
    return run


def assert_is(checkpoint: Checkpoint, steps: int) -> None:
    """Asserts that a checkpoint has the content of write(steps)."""
    assert checkpoint.steps == steps
    assert checkpoint.name == f"step-{steps:012d}"
    assert checkpoint.config == CONFIG
    assert_equal(checkpoint.state, state_at(steps))
    assert_equal(checkpoint.weights, weights_at(steps))
    oldest = oldest_at(steps)
    found = [dict[int, int]() for _ in range(LANES)]
    for rows in checkpoint.segments():
        lane = np.repeat(np.arange(LANES), rows.last - rows.first)
        numbers = [np.arange(a, b) for a, b in zip(rows.first, rows.last, strict=True)]
        for i, number in enumerate(np.concatenate(numbers)):
            assert rows.columns["obs"][i].tolist() == [number] * 4
            found[lane[i]][number] = int(rows.columns["action"][i])
    for lane in range(LANES):
        for number in range(oldest[lane], steps * ROWS_A_STEP):
            assert found[lane][number] == number


def assert_equal(got: Any, expected: Any) -> None:
    """Asserts that two states are equal in types, dtypes, shapes and bytes."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_equal(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_equal(a, b)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
    else:
        assert repr(got) == repr(expected)  # -0.0 and nan too


def folder(run: Path, steps: int) -> Path:
    return run / "checkpoints" / f"step-{steps:012d}"


def listing(run: Path) -> tuple[list[str], list[str]]:
    """Returns the names in checkpoints/ and in segments/."""
    root = run / "checkpoints"
    return sorted(os.listdir(root)), sorted(os.listdir(root / "segments"))


def edit_manifest(run: Path, steps: int, change) -> None:
    """Applies change to the parsed manifest, and updates its checksum."""
    path = folder(run, steps) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    del manifest["blake2b"]
    seal(path, json.dumps(manifest).encode()[1:] + b"\n")


def seal(path: Path, rest: bytes) -> None:
    path.write_bytes(b'{"blake2b": "%s",\n' % digest(rest).encode() + rest)


def reseal_file(run: Path, steps: int, file: str, data: bytes) -> None:
    """Replaces a file of a checkpoint, and its size and checksum in the manifest."""
    (folder(run, steps) / file).write_bytes(data)

    def change(manifest):
        manifest["files"][file] = {"bytes": len(data), "blake2b": digest(data)}

    edit_manifest(run, steps, change)


def reseal_column(run: Path, steps: int, segment: int, file: str, data: bytes, **spec) -> None:
    """Replaces a file of a segment in the same way. spec may change dtype or shape."""
    entry = json.loads((folder(run, steps) / "manifest.json").read_text())["segments"][segment]
    (run / "checkpoints" / "segments" / entry["name"] / file).write_bytes(data)

    def change(manifest):
        manifest["segments"][segment]["files"][file] |= {
            "bytes": len(data), "blake2b": digest(data), **spec,
        }  # fmt: skip

    edit_manifest(run, steps, change)
