"""For tests of reading: a run with checkpoints, and ways to damage it."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import load_checkpoint
from helpers.checkpoints import (
    folder,
)

NEWEST, BEFORE = 3, "step-000000000002"
OFFER = f"; checkpoint {BEFORE} is intact: use --checkpoint {BEFORE}"


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
    """Returns a file of the segment that only the newest checkpoint lists."""
    return run / "checkpoints" / "segments" / "00000003" / file


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["EVIL"])),)


def set_to(*keys, value):
    """Returns a change of the manifest that sets the entry under keys."""

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


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def with_header(text: str, content: bytes = bytes(48)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def header(shape, descr="'<i4'", order=False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
