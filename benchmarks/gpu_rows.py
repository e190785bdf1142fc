"""Rows of the GPU suite in results.jsonl, and time limits. It imports no package.

A row is one line of JSON that is written at once and synchronized to the disk, so that a cut at any
moment loses no earlier row.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
# Lines of a traceback or of an output that a row keeps: its last ones.
_KEPT_LINES = 40


class Rows:
    """The file results.jsonl of a folder.

    Attributes:
        had: Rows of earlier commands, and those that this process has appended.
    """

    def __init__(self, folder: Path):
        self.path = folder / "results.jsonl"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_torn_line()
        self.had = read_rows(self.path)

    def append(self, part: str, cell: str | None, seconds: float, **more: Any) -> None:
        """Appends a row and waits until it is on the disk. cell None: a remark on the part."""
        row = {"part": part, "cell": cell, "seconds": round(seconds, 3), **more}
        os.write(self._fd, (json.dumps(row, default=str) + "\n").encode())
        os.fsync(self._fd)
        self.had.append(row)

    def has(self, part: str, cell: str) -> bool:
        """Returns whether a cell is finished. One that was skipped or out of time is repeated."""
        return any(
            row["part"] == part and row["cell"] == cell
            and not (row.get("skipped") or row.get("out_of_time"))
            for row in self.had
        )  # fmt: skip

    def again(self) -> list[Row]:
        """Reads the file again, with the rows of other processes."""
        self.had = read_rows(self.path)
        return self.had

    def close(self) -> None:
        os.close(self._fd)

    def _end_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


def read_rows(path: Path) -> list[Row]:
    """Returns the whole rows of a file; a torn line is none."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and {"part", "cell"} <= row.keys():
                rows.append(row)
    return rows


class OutOfTimeError(BaseException):
    """A cell exceeds its time limit. No handler of ordinary errors catches it."""


class SkippedError(Exception):
    """A cell cannot run on this machine; the message gives the reason."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in the main thread after some seconds, by SIGALRM."""

    def end(*_: Any) -> None:
        raise OutOfTimeError(f"it took longer than {seconds:.1f} s")

    before = signal.signal(signal.SIGALRM, end)
    # Again after a while, in case that a handler catches everything.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 10.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class Cell(NamedTuple):
    """One measurement. run() returns its figures; settings are kept beside them."""

    name: str
    run: Callable[["Bench"], Row]
    settings: Row = {}  # noqa: RUF012


@dataclass
class Bench:
    """What a cell is given.

    Attributes:
        device: cuda, or cpu for a dry run.
        dry: Whether sizes and durations are tiny.
        rows: The results.
        temporary: Folder for run folders and traces.
        out: Folder of the results.
        part: Name of the current part.
        until: Time of the clock at which the current cell must end.
    """

    device: str
    dry: bool
    rows: Rows
    temporary: Path
    out: Path
    part: str = ""
    until: float = 0.0

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def left(self) -> float:
        """Returns the seconds that the current cell has left."""
        return self.until - time.monotonic()


def traceback_of(error: BaseException) -> str:
    """Returns the end of a traceback, with paths relative to the folders of packages."""
    return last_lines("".join(traceback.format_exception(error)))


def last_lines(text: str) -> str:
    """Returns the last lines of an output, with paths relative to the folders of packages."""
    roots = {str(Path(each).resolve()) for each in sys.path} | {str(Path(__file__).parents[1])}
    for root in sorted((each for each in roots if len(each) > 1), key=len, reverse=True):
        text = text.replace(root + os.sep, "")
    return "\n".join(text.strip().splitlines()[-_KEPT_LINES:])
