"""NodeFolder: the copy of a run that a node keeps while the run's study is on another machine."""

import contextlib
import hashlib
import os
from pathlib import Path

from fastdqn.cluster.folder_copy import finish_copies
from fastdqn.files.atomic_write import read_text, write_whole
from fastdqn.files.durable_write import TEMPORARY, remove
from fastdqn.files.run_lock_file import guard


def cache_folder() -> Path:
    """Returns the user's folder on this node, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastdqn"


class NodeFolder:
    """Folder of a run below the user's cache folder. It outlives the process that trains the run.

    At most one process holds it, until it releases it or dies.

    Args:
        study_run: Identity of the run: its path and the machine of its study.

    Attributes:
        run: The run folder.
        log: What the run printed since it was started last.
    """

    def __init__(self, study_run: str):
        digest = hashlib.blake2b(study_run.encode(), digest_size=16).hexdigest()
        self._root = cache_folder() / "runs" / digest
        self.run, self.log = self._root / "run", self._root / "log"
        self._fd = -1

    def take(self) -> bool:
        """Takes the folder, and creates it if it is missing. Returns False if another holds it."""
        self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
        # The process that held it may have deleted it meanwhile.
        if guard(fd) is False or not _is_same(fd, self._root):
            os.close(fd)
            return False
        self._fd = fd
        finish_copies(self._root)
        return True

    def release(self) -> None:
        """Lets other processes take the folder."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    def holds(self, copy: str) -> bool:
        """Returns whether this copy of the run is here."""
        try:
            return bool(copy) and read_text(self._root / "copy") == copy
        except ValueError:
            return False

    def clear(self) -> None:
        """Removes any copy of the run."""
        for name in ("copy", self.run.name, self.log.name):  # the name of the copy first
            with contextlib.suppress(FileNotFoundError):
                remove(self._root / name)

    def name(self, copy: str) -> None:
        """Names the copy of the run that is here now."""
        write_whole(self._root / "copy", copy)

    def delete(self) -> None:
        """Removes the folder and everything in it."""
        self.clear()
        for each in self._root.iterdir():
            if each.name.startswith(TEMPORARY):
                remove(each)
        with contextlib.suppress(OSError):
            self._root.rmdir()


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
