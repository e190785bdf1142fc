"""Metric sinks: write rows of metrics to JSON Lines and TensorBoard."""

import io
import os
import socket
import time
from typing import Any, Protocol

from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import to_json
from fastdqn.files.open_folder import Where


class MetricsSink(Protocol):
    """Destination of metric rows. name is used in messages. All methods may raise WriteError."""

    name: str

    def prepare(self) -> None:
        """Loads what the first write() needs, so that its time is not measured."""

    def write(self, step: int, row: dict[str, float]) -> None: ...
    def go_back(self, step: int) -> None:
        """Discards rows after step, since a run resumes there."""
        ...

    def close(self) -> None: ...


class JsonLines(MetricsSink):
    """Appends one JSON object per line, and flushes it, so that a crash loses no row."""

    def __init__(self, path: Where):
        self.name, self.file = path.name, AppendFile(path)

    def write(self, step: int, row: dict) -> None:
        """Writes a row. Raises WriteError. The row is then written with the next one."""
        self.file.write(to_json({"step": step, **row}) + "\n")
        self.file.flush()

    def go_back(self, step: int) -> None:
        """Does nothing: RunRecorder.cut_back() truncates the file."""

    def close(self) -> None:
        self.file.close()


class TensorBoardEvents(MetricsSink):
    """Writes scalar events to a TensorBoard event file, created with the first event.

    A rejected resume therefore leaves no file. prepare() takes 0.3 s to import the package, and
    torch.utils.tensorboard 1.3 s. The writer of the tensorboard package is not used: it writes on
    a thread, whose errors are raised by a later call.
    """

    def __init__(self, folder: Where):
        self._folder, self.name = folder, "TensorBoard events"
        self._file: AppendFile | None = None
        self._event: Any = None

    def prepare(self) -> None:
        """Imports the package. Raises ImportError: the extra is not installed."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # The protobuf modules create their classes at import time.
        self._event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._log: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        self._summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._framed = RecordWriter

    def write(self, step: int, row: dict[str, float]) -> None:
        """Writes a row. Raises WriteError."""
        if self._event is None:
            self.prepare()
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in row.items()]
        self._add(step=step, summary=self._summary(value=values))

    def go_back(self, step: int) -> None:
        """Writes a START event, at which readers drop later events. The file is not truncated."""
        if self._event is None:
            self.prepare()
        # Readers also drop events at the step of a START event.
        self._add(step=step + 1, session_log=self._log(status=self._log.START))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _add(self, **content: Any) -> None:
        events = [self._event(wall_time=time.time(), **content)]
        if self._file is None:
            # Readers find and sort event files by this name.
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = AppendFile(self._folder / name)
            # Readers expect this event first.
            events.insert(0, self._event(wall_time=time.time(), file_version="brain.Event:2"))
        framed = io.BytesIO()
        for event in events:
            self._framed(framed).write(event.SerializeToString())
        self._file.write(framed.getvalue())
        self._file.flush()
