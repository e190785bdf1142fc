"""Disk error policies: a failed write ends the run, or is reported and retried."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.files.open_folder import Where


class DiskErrors(Protocol):
    """Policy for files that cannot be written. report prints a line."""

    def __init__(self, report: Callable[[str], None]): ...

    def around(self, what: str) -> AbstractContextManager:
        """Returns a context manager for a write of what. It handles or raises WriteError."""
        ...


class EndRun:
    """Policy: a file that cannot be written ends the run."""

    def __init__(self, report: Callable[[str], None]):
        pass

    def around(self, what: str) -> AbstractContextManager:
        return contextlib.nullcontext()


class ContinueRun:
    """Policy: the run continues. The first failed write and the next success are reported."""

    def __init__(self, report: Callable[[str], None]):
        self._report, self._failing = report, set[str]()

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        try:
            yield
        except WriteError as error:
            if what not in self._failing:
                self._report(f"{error}; the run continues and retries later")
            self._failing.add(what)
        else:
            if what in self._failing:
                self._report(f"{what} can be written again")
            self._failing.discard(what)


class Keeper:
    """Keeps the content of files that could not be written, and retries them."""

    def __init__(self, disk: DiskErrors):
        self._disk, self._pending = disk, dict[Where, bytes]()

    def save(self, path: Where, save: Callable[[Where], None]) -> None:
        """Saves a whole file with save. It replaces pending content of that file."""
        with self._disk.around(path.name):
            self._pending.pop(path, None)
            try:
                save(path)
            except WriteError as error:
                if error.content is not None:
                    self._pending[path] = error.content
                raise

    def retry(self) -> None:
        """Retries pending files, under the policy for disk errors."""
        for path, content in list(self._pending.items()):
            self.save(path, lambda path, content=content: write_whole(path, content))

    def settle(self) -> None:
        """Writes pending files. Raises WriteError."""
        for path, content in list(self._pending.items()):
            write_whole(path, content)
            del self._pending[path]
