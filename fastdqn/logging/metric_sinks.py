"""Metrics: one row of numbers at a time, to JSON lines and, where wanted, TensorBoard events."""

import io
import os
import socket
import time
from typing import Any, Protocol

from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import to_json
from fastdqn.files.open_folder import Where


class MetricsSink(Protocol):
    """name: of what it writes; all methods may raise WriteError."""

    name: str

    def write(self, step: int, row: dict[str, float]) -> None: ...
    def go_back(self, step: int) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """Appends one JSON object a line; flushed at every row, so a crash loses none."""

    def __init__(self, path: Where):
        self.name, self.file = path.name, AppendFile(path)

    def write(self, step: int, row: dict) -> None:
        """Raises WriteError; the row is then written with the next one."""
        self.file.write(to_json({"step": step, **row}) + "\n")
        self.file.flush()

    def go_back(self, step: int) -> None:
        """Its owner cuts the file, to a size that it knows."""

    def close(self) -> None:
        self.file.close()


class TensorBoardEvents:
    """Scalar events in a file of TensorBoard's, made with the first of them.

    A resume that is refused leaves no file. torch.utils.tensorboard would import 1.3 s of packages
    where this takes 0.2 s; tensorboard's own file writer has a thread, whose errors would come as a
    traceback, and from a later call. Raises ImportError without the extra.
    """

    def __init__(self, folder: Where):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # The protobuf modules make their classes when they are imported: no checker sees them.
        self._event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._log: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        self._summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._framed, self._folder, self.name = RecordWriter, folder, "TensorBoard's events"
        self._file: AppendFile | None = None

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
            self._file.close()

    def _add(self, **content: Any) -> None:
        events = [self._event(wall_time=time.time(), **content)]
        if self._file is None:
            # A name that readers look for, and sort by.
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = AppendFile(self._folder / name)
            # What readers expect first.
            events.insert(0, self._event(wall_time=time.time(), file_version="brain.Event:2"))
        framed = io.BytesIO()
        for event in events:
            self._framed(framed).write(event.SerializeToString())
        self._file.write(framed.getvalue())
        self._file.flush()
