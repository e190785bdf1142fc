"""Disk errors: what becomes of a run whose files cannot be written."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.files.open_folder import Where


class DiskErrors(Protocol):
    def __init__(self, tell: Callable[[str], None]): ...

    def around(self, what: str) -> AbstractContextManager:
        """Around a write of what: whether a WriteError leaves it."""
        ...


class EndRun:
    """A file that cannot be written ends the run."""

    def __init__(self, tell: Callable[[str], None]):
        pass

    def around(self, what: str) -> AbstractContextManager:
        return contextlib.nullcontext()


class GoOn:
    """The run goes on: it is told when something can no longer be written, and when it can."""

    def __init__(self, tell: Callable[[str], None]):
        self._tell, self._failing = tell, set[str]()

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        try:
            yield
        except WriteError as error:
            if what not in self._failing:
                self._tell(f"{error}; the run goes on, and tries again later")
            self._failing.add(what)
        else:
            if what in self._failing:
                self._tell(f"{what} could be written again")
            self._failing.discard(what)


class Keeper:
    """Whole files that the disk has refused are kept in memory until it takes them."""

    def __init__(self, disk: DiskErrors):
        self._disk, self._owed = disk, dict[Where, bytes]()

    def save(self, path: Where, save: Callable[[Where], None]) -> None:
        """Let save write a whole file, which takes the place of what was owed there."""
        with self._disk.around(path.name):
            self._owed.pop(path, None)
            try:
                save(path)
            except WriteError as error:
                if error.content is not None:
                    self._owed[path] = error.content
                raise

    def retry(self) -> None:
        for path, content in list(self._owed.items()):
            self.save(path, lambda path, content=content: write_whole(path, content))

    def settle(self) -> None:
        """Write what is owed now. Raises WriteError."""
        for path, content in list(self._owed.items()):
            write_whole(path, content)
            del self._owed[path]
