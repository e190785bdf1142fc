"""WorkerTarget: seeds and signal handlers of the worker processes of vector environments."""

import atexit
import contextlib
import errno
import gc
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Collection, Iterator
from multiprocessing import connection, process
from typing import Any

from gymnasium.vector.async_vector_env import _async_worker

from fastdqn.envs.errors import one_line
from fastdqn.seeding import seed_global_generators
from fastdqn.system.cwd_imports import Inherited

# Seconds to wait for a killed process to exit, since its pipes close one by one. Ours, untuned.
_PARENT_SECONDS = 1.0
# Number and length of constructor errors that are sent before the parent reads them. A pipe holds
# 64 KiB, and a worker that waits for free space in it would not end.
_MOST_REPORTS, _MOST_LINE, _MOST_TRACE = 2, 1_000, 6_000
# Signals, besides SIGINT, that a terminal or a cluster scheduler may send to a process group.
_GROUP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Limits that starting too many processes can reach.
_LIMITS = {
    errno.EMFILE: "the limit of open files (ulimit -n)",
    errno.ENFILE: "the system's limit of open files",
    errno.EAGAIN: "the limit of processes (ulimit -u, or the container's)",
    errno.ENOMEM: "the memory of the machine or the container",
    errno.ENOSPC: "the space in /dev/shm",
}


class WorkerTarget:
    """The target of each worker process of an AsyncVectorEnv or a WorkerVectorEnv.

    It sets seeds and signals, then runs the worker function.

    Args:
        seed: The worker whose first sub-environment is i seeds the global generators of its process
            with seed + i. Otherwise all would draw the same numbers from the state that they
            inherit.
        worker: The worker function, with the arguments of _async_worker(), which is the default.
        reports: Queue and semaphore for errors of constructors, shared with a replaced target.
    """

    def __init__(self, seed: int, worker: Callable | None = None, reports: Any = None):
        self.seed, self._worker = seed, worker or _async_worker
        self._reports, self._room = reports or (
            multiprocessing.SimpleQueue(), multiprocessing.Semaphore(_MOST_REPORTS),
        )  # fmt: skip
        self._imports, self._collects = Inherited(), gc.isenabled()
        self._reported: dict[int, tuple[str, str]] = {}

    def with_seed(self, seed: int) -> "WorkerTarget":
        """Returns a copy with another seed, for a process that replaces a failed one."""
        return WorkerTarget(seed, self._worker, (self._reports, self._room))

    def __call__(self, index: int, env_fn: Callable, *arguments) -> None:
        """Runs the worker; exits without an error if the parent was killed."""
        gc.freeze()  # ignores the parent's garbage, see inherited_garbage_kept()
        if self._collects:
            gc.enable()
        leave_signals_to_the_parent()
        # A daemon could not start processes, which environments with a simulator do. For the
        # parent it remains a daemon, so that the parent's exit does not wait for it.
        process.current_process()._config["daemon"] = False  # pyright: ignore[reportAttributeAccessIssue]
        seed_global_generators(self.seed + index)
        try:
            self._worker(index, lambda: self._make(index, env_fn), *arguments)
        except (EOFError, ConnectionError):
            parent = multiprocessing.parent_process()
            if parent is not None:
                parent.join(_PARENT_SECONDS)
            if parent is None or parent.is_alive():
                raise

    def _make(self, index: int, env_fn: Callable) -> Any:
        try:
            return env_fn()
        except BaseException as error:
            if self._room.acquire(block=False):
                line, trace = one_line(error)[:_MOST_LINE], traceback.format_exc()[-_MOST_TRACE:]
                # A function that makes several has counted those before.
                self._reports.put((index + getattr(env_fn, "made", 0), line, trace))
            raise SystemExit(1) from None

    def reports(self) -> dict[int, tuple[str, str]]:
        """Returns (message, traceback) of each failed constructor, by its sub-environment."""
        with contextlib.suppress(OSError, EOFError):
            while not self._reports.empty():
                index, line, trace = self._reports.get()
                self._room.release()
                self._reported[index] = line, trace
        return self._reported


def leave_signals_to_the_parent() -> None:
    """Makes a worker ignore signals to its process group, which the parent handles.

    The worker sets this itself, since a process of multiprocessing's forkserver inherits nothing
    from the parent. Signals other than SIGINT get an empty handler instead of SIG_IGN: a program
    that an environment starts would inherit SIG_IGN and could not be ended by SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _GROUP_SIGNALS:
        signal.signal(number, _handled_by_the_parent)


def _handled_by_the_parent(number, frame) -> None:
    """Does nothing: the process ends when the parent closes the pipe at the end of the run."""


@contextlib.contextmanager
def inherited_garbage_kept() -> Iterator[None]:
    """Prevents garbage collection in a forked process before it runs its target.

    Garbage that it inherits belongs to the parent. The destructor of a C++ object, such as a vector
    environment of EnvPool or ale-py, would wait for threads that exist only in the parent.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def starting_workers(target: WorkerTarget, count: int) -> Iterator[None]:
    """Ends all new worker processes if a vector environment cannot be made.

    Raises:
        ValueError: A process ended, or the system refused to start one.
    """
    _require_main_is_guarded()
    before = _workers()
    try:
        with inherited_garbage_kept():
            yield
    except BaseException as error:
        kill_processes(_workers() - before, _PARENT_SECONDS)  # Gymnasium would wait after SIGTERM
        if isinstance(error, EOFError | ConnectionError):
            raise ValueError(_why_it_ended(target)) from None
        if isinstance(error, OSError) and error.errno in _LIMITS:
            raise ValueError(
                f"{count} worker processes cannot be started: {error.strerror}. This is "
                f"{_LIMITS[error.errno]}: raise it, lower --num-envs, or use --vectorization sync"
            ) from None
        raise


def end_processes(processes: Collection[Any], ask: Callable[[], None], patience: float) -> None:
    """Asks worker processes to end and waits for them.

    A close() that hangs, or a thread that it leaves behind, keeps a process alive.

    Args:
        processes: The processes, all of which respond.
        ask: Sends each of them the message to close.
        patience: Seconds to wait for the next one to end.
    """
    ask()
    sentinels = {each.sentinel for each in processes}
    while sentinels and (ended := connection.wait(sentinels, patience)):
        sentinels.difference_update(ended)


def kill_processes(processes: Collection[Any], patience: float) -> None:
    """Kills worker processes, which ignore SIGTERM, and waits for each."""
    for each in processes:
        each.kill()
    for each in processes:
        each.join(patience)


def _why_it_ended(target: WorkerTarget) -> str:
    for index, (line, _) in target.reports().items():
        return f"env {index}: {line}"
    line = "a worker process ended while its environment was made"
    if multiprocessing.get_start_method() != "fork":
        line += (
            f". The start method {multiprocessing.get_start_method()!r} imports the main script "
            "again: start training behind if __name__ == '__main__':"
        )
    return line


def _workers() -> set[Any]:
    """Returns the live worker processes of vector environments."""
    children = multiprocessing.active_children()
    return {child for child in children if child.name.startswith("Worker<")}


# Runs before multiprocessing's exit handler, which would wait for workers that ignore SIGTERM.
atexit.register(lambda: kill_processes(_workers(), _PARENT_SECONDS))


def _require_main_is_guarded() -> None:
    """Raises SystemExit in a worker process whose import of the main script starts training.

    The message is one line, where multiprocessing would print a long traceback.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise SystemExit(
            "error: importing the script in a worker process starts training: put the call behind "
            "if __name__ == '__main__':"
        )
