"""AppendFile: a file that grows by whole lines; those that the disk refuses wait in memory."""

import contextlib
import os

from fastdqn.files.atomic_write import WriteError, refused
from fastdqn.files.open_folder import Where, allow_change, open_file

# Bytes: what is written together, and what may wait for a disk at most. Ours, untuned.
_CHUNK, _MOST = 1 << 16, 16 << 20


class AppendFile:
    """Opened at its end, or made. Raises WriteError, as all its methods do.

    size  bytes on the disk, which end with a whole line; dropped  lines that found no room in
    memory either
    """

    def __init__(self, path: Where):
        self.path, self.dropped = path, 0
        self._waiting: list[bytes] = []
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
                "change. Replace it by a copy"
            )
        self.size = info.st_size

    def write(self, lines: str | bytes) -> None:
        """Take whole lines; they are on the disk with the next flush()."""
        data = lines.encode() if isinstance(lines, str) else lines
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Where that fails it goes on waiting, and the file ends as before."""
        if not self._waiting:
            return
        data = memoryview(b"".join(self._waiting))
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
        self._waiting, self._bytes = [], 0

    def truncate(self, size: int) -> None:
        """Forget what waits, and cut the file to so many bytes."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise refused(self.path, error) from error
        self._waiting, self._bytes, self.size = [], 0, size

    def close(self) -> None:
        """Write what waits, and close; safe to call twice."""
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
        while self._bytes > _MOST:
            oldest = self._waiting.pop(0)
            self._bytes -= len(oldest)
            self.dropped += 1
