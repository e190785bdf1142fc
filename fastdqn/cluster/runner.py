"""Runner: trains a run in a process of its node. A study's scheduler makes it an actor of Ray."""

import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ray

from fastdqn.cluster.folder_copy import FileSize, FolderCopy, files_of, read_block
from fastdqn.cluster.node_folder import NodeFolder
from fastdqn.cluster.resources import hide_gpus
from fastdqn.files.run_lock_file import holder
from fastdqn.study.local_scheduler import Share, start_process
from fastdqn.system.python_threads import start_thread

# Files whose last rows the driver shows, and the bytes of them that it gets. Not tuned.
SHOWN, _TAIL = ("metrics.jsonl", "eval.jsonl"), 1 << 14
# Most bytes of the log in one report.
_LOG = 1 << 20
# Seconds that a run waits for the processes of a killed driver, which end within a few.
_WAIT, _LOOK = 90.0, 0.2
_INTERRUPTED = 130


class Task(NamedTuple):
    """A run to train.

    Attributes:
        words: Arguments of the command line `fastdqn`.
        folder: Run folder of the driver.
        log: Log file of the driver.
        host: Name of the driver's machine.
        working_folder: Working directory of the driver, used if the node has it too.
        token: A file beside the study, and its content. None: the storage counts as not shared.
        threads: Number of threads of the process.
        has_gpu: Whether Ray has assigned a GPU. Without one, the process sees none.
    """

    words: tuple[str, ...]
    folder: Path
    log: Path
    host: str
    working_folder: Path
    token: tuple[Path, str] | None
    threads: int
    has_gpu: bool


class Place(NamedTuple):
    """Where a run is trained: the node's id and address, and whether it has the driver's storage.

    kept: whether the node has the copy of the run that the driver asked for, or needs none.
    """

    node: str
    address: str
    shared: bool
    kept: bool


class Report(NamedTuple):
    """What has happened since the last report.

    Attributes:
        code: Exit code of the process, minus the number of a signal, or None while it runs.
        log: What it printed. Empty with shared storage.
        rows: Ends of the files of SHOWN that have changed.
    """

    code: int | None
    log: bytes
    rows: dict[str, bytes]


class Runner:
    """Trains a run, in the driver's folder if the node has its storage, else in a copy.

    open() comes first, then begin(), and then any calls, also at a time. The process of the run
    ends with the process that the runner is in.
    """

    def __init__(self, task: Task):
        if not task.has_gpu:
            hide_gpus()
        self._task, self._node = task, None
        self._process: subprocess.Popen | None = None
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._code: int | None = None
        self._shown = dict[str, tuple[int, int]]()

    def open(self, copy: str) -> Place:
        """Takes the place of the run on this node.

        Args:
            copy: Name of the copy of the run that was trained on a node before, or ''.

        Raises:
            RuntimeError: Another process still trains the run.
            OSError: The folder of the copy cannot be made.
        """
        context = ray.get_runtime_context()
        kept = shared = _has(self._task.token)
        if not shared:
            self._node = NodeFolder(f"{self._task.host}:{self._task.folder}")
            _wait(self._node.take, self._node.run)
            kept = self._node.holds(copy)
            if not kept:
                self._node.clear()
        folder = self._folder
        _wait(lambda: not (holder(folder) or ("", False))[1], folder)
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), shared, kept)

    def begin_copy(self) -> None:
        """Starts to receive the run from the driver."""
        self._copy = FolderCopy(self._folder)
        self._copy.begin()

    def add(self, name: str, block: bytes) -> None:
        """Receives the next block of a file."""
        self._copy.add(name, block)

    def end_copy(self, files: Sequence[FileSize]) -> None:
        """Puts what was received in place."""
        self._copy.end(files)

    def name_copy(self, copy: str) -> None:
        """Names the copy of the run that is here now, which may be none."""
        assert self._node is not None
        self._node.name(copy)

    def begin(self) -> None:
        """Starts the process, in a thread that waits for it.

        The kernel ends it with this very thread: see end_with() of run_process.py.
        """
        start_thread(self._train, name="run")

    def report(self, seconds: float, logged: int) -> Report:
        """Returns what has happened. Waits at most this long for the end of the process.

        logged: bytes of the log that the driver has.
        """
        self._ended.wait(seconds)
        code = self._code if self._ended.is_set() else None
        if self._node is None:
            return Report(code, b"", {})
        log = _part(self._node.log, logged, _LOG)
        return Report(None if log else code, log, self._new_rows())

    def stop(self) -> None:
        """Asks the run to save a checkpoint and end."""
        self._stopped.set()
        self._signal(signal.SIGTERM)

    def save(self) -> None:
        """Asks the run to write a checkpoint."""
        self._signal(signal.SIGUSR1)

    def files(self) -> list[FileSize]:
        """Returns the files of the run, which has ended."""
        return files_of(self._folder)

    def read(self, name: str, start: int) -> bytes:
        """Returns the block of a file that begins at a byte."""
        return read_block(self._folder, name, start)

    def delete_copy(self) -> None:
        """Removes the node's copy of the run."""
        assert self._node is not None
        self._node.delete()

    @property
    def _folder(self) -> Path:
        return self._task.folder if self._node is None else self._node.run

    def _signal(self, number: int) -> None:
        if (process := self._process) is not None:
            process.send_signal(number)

    def _train(self) -> None:
        code = 1
        try:
            code = self._run()
        finally:
            self._code = code
            self._ended.set()

    def _run(self) -> int:
        task = self._task
        log, mode = (task.log, "ab") if self._node is None else (self._node.log, "wb")
        with open(log, mode) as output:
            if self._stopped.is_set():
                return _INTERRUPTED
            try:
                self._process = start_process(
                    self._words(), output, Share((), task.threads),
                    task.working_folder if task.working_folder.is_dir() else None,
                )  # fmt: skip
            except OSError as error:  # the limit of processes
                output.write(f"error: the process cannot start: {error}\n".encode())
                return 1
        if self._stopped.is_set():  # since the look above
            self._signal(signal.SIGTERM)
        return self._process.wait()

    def _words(self) -> list[str]:
        """Returns the command line with the folder that the run has here."""
        words = list(self._task.words)
        words[words.index("--run-dir") + 1] = str(self._folder)
        return words

    def _new_rows(self) -> dict[str, bytes]:
        rows = {}
        for name in SHOWN:
            path = self._folder / name
            try:
                found = path.stat()
            except OSError:
                continue
            stamp = (found.st_mtime_ns, found.st_size)
            if self._shown.get(name) != stamp:
                self._shown[name] = stamp
                rows[name] = _part(path, max(0, found.st_size - _TAIL), _TAIL)
        return rows


def _has(token: tuple[Path, str] | None) -> bool:
    """Returns whether this node sees the file that the driver wrote."""
    try:
        return token is not None and token[0].read_text() == token[1]
    except (OSError, ValueError):
        return False


def _wait(is_free, folder: Path) -> None:
    """Waits until a run is free. Raises RuntimeError."""
    end = time.monotonic() + _WAIT
    while not is_free():
        if time.monotonic() > end:
            raise RuntimeError(f"another process is using the run in {folder}: wait, or stop it")
        time.sleep(_LOOK)


def _part(path: Path, start: int, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(most)
    except OSError:
        return b""
