"""Checkpoint format: file names, array specifications, limits, and CheckpointError.

RUN/checkpoints/latest                           name of the latest checkpoint
RUN/checkpoints/step-000000020032/manifest.json  its files, with sizes and checksums
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
# Lower case, so that names stay distinct on a file system that ignores case.
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,63}")
TENSOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,255}")

DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64",
    )
}  # fmt: skip

# Size limits: far above what a run writes, and low enough to read safely.
MAX_MANIFEST_BYTES = 64 << 20
MAX_ARRAY_BYTES = 1 << 42


class CheckpointError(ValueError):
    """Raised if a checkpoint cannot be used. One line: file, field and problem.

    Attributes:
        intact: Name of another checkpoint that is intact, if one is suggested.
        problem: The line without advice to someone who resumes the run.
    """

    def __init__(self, problem: str, intact: str | None = None, advice: str = ""):
        if intact:
            advice += f"; checkpoint {intact} is intact: use --checkpoint {intact}"
        super().__init__(problem + advice)
        self.problem, self.intact = problem, intact


class LayoutError(CheckpointError):
    """Raised if the rows of a checkpoint are those of other environments. No other one fits."""


class ArraySpec(NamedTuple):
    """Dtype and shape of an array that is stored in a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape)}


class FileEntry(NamedTuple):
    """Size and checksum of a file, and the specification of its array if it has one."""

    bytes: int
    blake2b: str
    spec: ArraySpec | None = None

    def to_json(self) -> dict[str, Any]:
        spec = {} if self.spec is None else self.spec.to_json()
        return {"bytes": self.bytes, "blake2b": self.blake2b, **spec}


def step_name(steps: int) -> str:
    """Returns the folder name of the checkpoint at steps. Raises ValueError beyond 12 digits."""
    if not 0 <= steps < 10**12:
        raise ValueError(f"steps is {steps}: it must be in [0, 10**12)")
    return f"step-{steps:012d}"


def steps_of(name: str) -> int:
    """Returns the steps of a checkpoint from the name of its folder."""
    return int(name.removeprefix("step-"))


def damaged(file: object, field: str, problem: str) -> CheckpointError:
    """Returns a one-line error. Text from a malicious file is made printable."""
    return CheckpointError(printable(f"{file}: {field}: {problem}"))
