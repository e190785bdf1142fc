"""Metrics: one row of numbers at a time, to JSON lines and, where wanted, TensorBoard events."""

import os
import socket
import time
from pathlib import Path
from typing import IO, Any, Protocol

from fastdqn.record.files import open_append, to_json, writing


class MetricsSink(Protocol):
    def write(self, step: int, row: dict[str, float]) -> None: ...
    def go_back(self, step: int) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """Appends one JSON object a line; flushed at every row, so a crash loses none."""

    def __init__(self, path: Path):
        self._path, self.file = path, open_append(path)

    def write(self, step: int, row: dict) -> None:
        """Raises WriteError."""
        with writing(self._path):
            self.file.write(to_json({"step": step, **row}) + "\n")
            self.file.flush()

    def go_back(self, step: int) -> None:
        """Its owner cuts the file, to a size that it knows."""

    def close(self) -> None:
        with writing(self._path):
            self.file.close()


class TensorBoardEvents:
    """Scalar events in a file of TensorBoard's, made with the first of them.

    A resume that is refused leaves no file. torch.utils.tensorboard would import 1.3 s of packages
    where this takes 0.2 s; tensorboard's own file writer has a thread, whose errors would come as a
    traceback, and from a later call. Raises ImportError without the extra.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # The protobuf modules make their classes when they are imported: no checker sees them.
        self._event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._log: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        self._summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._framed, self._folder, self._path = RecordWriter, folder, folder
        self._file: IO[bytes] | None = None

    def write(self, step: int, row: dict[str, float]) -> None:
        """Raises WriteError."""
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in row.items()]
        self._add(step=step, summary=self._summary(value=values))

    def go_back(self, step: int) -> None:
        """Let readers drop what was written behind step; that file is not ours to cut."""
        # They drop what is at the step of a start, too.
        self._add(step=step + 1, session_log=self._log(status=self._log.START))

    def close(self) -> None:
        if self._file is not None:
            with writing(self._path):
                self._file.close()

    def _add(self, **content: Any) -> None:
        events = [self._event(wall_time=time.time(), **content)]
        if self._file is None:
            # A name that readers look for, and sort by.
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
            self._path = self._folder / name
            with writing(self._path):
                self._file = open(self._path, "ab")  # noqa: SIM115 (open as long as the run)
            # What readers expect first.
            events.insert(0, self._event(wall_time=time.time(), file_version="brain.Event:2"))
        with writing(self._path):
            for event in events:
                self._framed(self._file).write(event.SerializeToString())
            self._file.flush()
