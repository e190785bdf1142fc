"""AppendFile: append-only file of whole lines, buffered in memory if a write fails."""

import contextlib
import os

from fastdqn.files.atomic_write import WriteError, refused
from fastdqn.files.open_folder import Where, allow_change, open_file

# Bytes per write, and the most that are buffered while writes fail. Not tuned.
_CHUNK, _MAX_BUFFERED = 1 << 16, 16 << 20


class AppendFile:
    """Append-only file of whole lines. The file is created if it does not exist.

    All methods raise WriteError if the file cannot be written.

    Attributes:
        size: Size of the file in bytes. It always ends with a whole line.
        dropped: Number of writes that were lost because the buffer was full.
    """

    def __init__(self, path: Where):
        self.path, self.dropped = path, 0
        self._buffer: list[bytes] = []
        self._bytes = 0
        try:
            allow_change(path)
            self._fd, info = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise refused(path, error) from error
        if info.st_nlink > 1:
            os.close(self._fd)
            raise WriteError(
                f"cannot write {path}: it has {info.st_nlink} hard links, and all of them would "
                "change. Replace it with a copy"
            )
        self.size = info.st_size

    def write(self, lines: str | bytes) -> None:
        """Buffers whole lines. flush() writes them to the file."""
        data = lines.encode() if isinstance(lines, str) else lines
        self._buffer.append(data)
        self._bytes += len(data)
        if self._bytes >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Writes the buffer. If that fails, the buffer is kept and the file is truncated back."""
        if not self._buffer:
            return
        data = memoryview(b"".join(self._buffer))
        allow_change(self.path)
        try:
            at = 0
            while at < len(data):
                at += os.write(self._fd, data[at:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            self._drop_oldest()
            raise refused(self.path, error, len(data)) from error
        self.size += len(data)
        self._buffer, self._bytes = [], 0

    def truncate(self, size: int) -> None:
        """Discards the buffer and truncates the file to size bytes."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise refused(self.path, error) from error
        self._buffer, self._bytes, self.size = [], 0, size

    def close(self) -> None:
        """Flushes and closes the file. Safe to call twice."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError as error:
                raise refused(self.path, error) from error

    def _drop_oldest(self) -> None:
        while self._bytes > _MAX_BUFFERED:
            oldest = self._buffer.pop(0)
            self._bytes -= len(oldest)
            self.dropped += 1
