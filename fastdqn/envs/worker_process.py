"""Worker processes of AsyncVectorEnv: what each does before and around Gymnasium's own loop."""

import atexit
import contextlib
import errno
import gc
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import process
from typing import Any

from gymnasium.vector.async_vector_env import _async_worker

from fastdqn.envs.errors import one_line
from fastdqn.seeding import seed_global_generators
from fastdqn.system.cwd_imports import Inherited

# A process that is killed closes one pipe a moment after another. Ours, untuned.
_PARENT_SECONDS = 1.0
# Errors of constructors that are sent before the parent reads them, and characters of each: a pipe
# holds 64 KiB, and a worker that waits for room in it would not end.
_MOST_REPORTS, _MOST_LINE, _MOST_TRACE = 2, 1_000, 6_000
# What a terminal or a cluster's scheduler may send to all processes of a group, besides SIGINT.
_GROUP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# What the system refuses where too many processes are asked for: the limit, and what shows it.
_LIMITS = {
    errno.EMFILE: "the limit of open files (ulimit -n)",
    errno.ENFILE: "the system's limit of open files",
    errno.EAGAIN: "the limit of processes (ulimit -u, or the container's)",
    errno.ENOMEM: "the memory of the machine or the container",
    errno.ENOSPC: "the space in /dev/shm",
}


class WorkerTarget:
    """The target of each worker process: seeds, signals, then Gymnasium's own worker.

    seed    worker i seeds the global generators of its process with seed + i, or all would draw the
            numbers of the parent, whose state they inherit
    worker  runs then, with the arguments of _async_worker(); None: that
    """

    def __init__(self, seed: int, worker: Callable | None = None, reports: Any = None):
        self.seed, self._worker = seed, worker or _async_worker
        self._reports, self._room = reports or (
            multiprocessing.SimpleQueue(), multiprocessing.Semaphore(_MOST_REPORTS),
        )  # fmt: skip
        self._imports, self._collects = Inherited(), gc.isenabled()
        self._reported: dict[int, tuple[str, str]] = {}

    def with_seed(self, seed: int) -> "WorkerTarget":
        """The same with other seeds, for a process that takes the place of a failed one."""
        return WorkerTarget(seed, self._worker, (self._reports, self._room))

    def __call__(self, index: int, env_fn: Callable, *arguments) -> None:
        """Run the worker; it ends quietly where the parent was killed."""
        gc.freeze()  # the parent's garbage, see inherited_garbage_kept()
        if self._collects:
            gc.enable()
        leave_signals_to_the_parent()
        # As a daemon it could start no process, which environments with a simulator do; to the
        # parent, which does not wait for it at its own exit, it remains one.
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
                self._reports.put((index, line, trace))
            raise SystemExit(1) from None

    def reports(self) -> dict[int, tuple[str, str]]:
        """(line, traceback) of each constructor that has failed in its process, by index."""
        with contextlib.suppress(OSError, EOFError):
            while not self._reports.empty():
                index, line, trace = self._reports.get()
                self._room.release()
                self._reported[index] = line, trace
        return self._reported


def leave_signals_to_the_parent() -> None:
    """In a worker: signals that may go to all of a group are the parent's to obey.

    The worker itself sets this: where a server forks it, as multiprocessing's forkserver does, it
    inherits nothing of the parent's. All but Ctrl-C have a handler and are not ignored: a program
    that an environment starts would inherit that, and could not be ended by SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _GROUP_SIGNALS:
        signal.signal(number, _obeyed_by_the_parent)


def _obeyed_by_the_parent(number, frame) -> None:
    """The parent closes the pipe when the run ends, and the process ends then."""


@contextlib.contextmanager
def inherited_garbage_kept() -> Iterator[None]:
    """Within, a process that is forked collects no garbage before it runs its target.

    Garbage that it inherits belongs to the parent: the destructor of a C++ object, such as a vector
    environment of EnvPool or ale-py, would wait for threads that exist in the parent alone.
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
    """Around the making of an AsyncVectorEnv: no process is left where it fails.

    Raises ValueError, one line, where a process ends or the system refuses one.
    """
    _require_main_is_guarded()
    before = _workers()
    try:
        with inherited_garbage_kept():
            yield
    except BaseException as error:
        _kill(_workers() - before)  # Gymnasium would terminate them, and wait
        if isinstance(error, EOFError | ConnectionError):
            raise ValueError(_why_it_ended(target)) from None
        if isinstance(error, OSError) and error.errno in _LIMITS:
            raise ValueError(
                f"{count} worker processes cannot be started: {error.strerror}; this is "
                f"{_LIMITS[error.errno]}: raise it, or use fewer --num-envs or --vectorization sync"
            ) from None
        raise


def _why_it_ended(target: WorkerTarget) -> str:
    for index, (line, _) in target.reports().items():
        return f"env {index}: {line}"
    line = "a worker process ended while its environment was made"
    if multiprocessing.get_start_method() != "fork":
        line += (
            f"; with the start method {multiprocessing.get_start_method()!r} it imports the main "
            "script again, which must start training behind if __name__ == '__main__':"
        )
    return line


def _workers() -> set[Any]:
    """The processes of vector environments that are alive, and no other children."""
    children = multiprocessing.active_children()
    return {child for child in children if child.name.startswith("Worker<")}


def _kill(workers: set[Any]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(_PARENT_SECONDS)


# Before multiprocessing's own exit, which terminates them, and waits although they do not obey.
atexit.register(lambda: _kill(_workers()))


def _require_main_is_guarded() -> None:
    """Ends a worker process that imports the main script and is made to train by that.

    Raises SystemExit with one line, where multiprocessing would raise with a long traceback.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise SystemExit(
            "error: the script starts training when a worker process imports it: put the call "
            "behind if __name__ == '__main__':"
        )
