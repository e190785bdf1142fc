"""What a checkpoint is made of: its names, its types, and the bounds that reading keeps to.

RUN/checkpoints/latest                           the newest checkpoint's name
RUN/checkpoints/step-000000020032/manifest.json  what belongs to it, with sizes and checksums
                                 /weights.safetensors, state.safetensors, best.safetensors
RUN/checkpoints/segments/00000001/first.npy, last.npy, COLUMN.npy ...
"""

import math
import re
from typing import Any, NamedTuple

import numpy as np

from fastdqn.text import printable

FORMAT = 1

STEP = re.compile(r"step-[0-9]{12}")
SEGMENT = re.compile(r"[0-9]{8}")
# Lower case: two columns must not become one file where the file system ignores case.
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,63}")
TENSOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,255}")

DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64",
    )
}  # fmt: skip

# Bounds: ours, far above what a run writes and below what would hurt whoever reads.
MAX_MANIFEST_BYTES = 64 << 20
MAX_ARRAY_BYTES = 1 << 42


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: one line that names file, field and what is wrong."""


class ArraySpec(NamedTuple):
    """What an array is said to be, before there is one."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape)}


class FileEntry(NamedTuple):
    """A file's size and checksum, and the array in it where it holds one."""

    bytes: int
    blake2b: str
    spec: ArraySpec | None = None

    def to_json(self) -> dict[str, Any]:
        spec = {} if self.spec is None else self.spec.to_json()
        return {"bytes": self.bytes, "blake2b": self.blake2b, **spec}


def step_name(steps: int) -> str:
    """Folder of the checkpoint at steps. Raises ValueError where it has no name."""
    if not 0 <= steps < 10**12:
        raise ValueError(f"steps is {steps}: a checkpoint's name holds 12 digits")
    return f"step-{steps:012d}"


def damaged(file: object, field: str, problem: str) -> CheckpointError:
    """An error of one line, whatever an evil file put into field or problem."""
    return CheckpointError(printable(f"{file}: {field}: {problem}"))
