"""Metrics: one row of numbers at a time, to JSON lines and, where wanted, TensorBoard events."""

import time
from pathlib import Path
from typing import Any, Protocol

from fastdqn.record.files import open_append, to_json


class MetricsSink(Protocol):
    def write(self, step: int, row: dict[str, float]) -> None: ...
    def go_back(self, step: int) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """Appends one JSON object a line; flushed at every row, so a crash loses none."""

    def __init__(self, path: Path):
        self.file = open_append(path)

    def write(self, step: int, row: dict) -> None:
        self.file.write(to_json({"step": step, **row}) + "\n")
        self.file.flush()

    def go_back(self, step: int) -> None:
        """Its owner cuts the file, to a size that it knows."""

    def close(self) -> None:
        self.file.close()


class TensorBoardEvents:
    """Scalar events through tensorboard's own file writer.

    torch.utils.tensorboard would import 1.3 s of packages where this takes 0.2 s.
    Raises ImportError without the extra.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # The protobuf modules make their classes when they are imported: no checker sees them.
        self._event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._log: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        self._summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._writer = EventFileWriter(str(folder))

    def write(self, step: int, row: dict[str, float]) -> None:
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in row.items()]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def go_back(self, step: int) -> None:
        """Let readers drop what was written behind step; that file is not ours to cut."""
        start = self._log(status=self._log.START)
        # They drop what is at the step of a start, too.
        self._writer.add_event(self._event(wall_time=time.time(), step=step + 1, session_log=start))

    def close(self) -> None:
        self._writer.close()
