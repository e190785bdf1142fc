"""Threads: start with an error message, and program exit despite leftover threads."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastdqn.system.standard_streams import print_error

# Timeout of a thread's start in seconds, normally less than a millisecond. Not tuned.
_SECONDS = 20.0
# Seconds that the program waits at exit for threads that an environment left. Not tuned.
_END_SECONDS = 5.0


class ThreadError(RuntimeError):
    """A thread could not start: the process has reached its limit of memory or threads."""


def start_thread(target: Callable[..., Any], *args: Any, name: str) -> threading.Thread:
    """Calls target(*args) in a daemon thread. Raises ThreadError if it cannot start.

    Python's threading would wait forever for a thread that runs out of memory at its start, and
    fails if an environment has set an exception hook to None.
    """
    sys.excepthook = sys.excepthook or sys.__excepthook__
    threading.excepthook = threading.excepthook or threading.__excepthook__
    try:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        if hasattr(thread, "_started"):
            thread._started = _Started()  # pyright: ignore[reportAttributeAccessIssue]
        thread.start()
    except (RuntimeError, MemoryError) as error:
        why = str(error) or type(error).__name__
        raise ThreadError(
            f"the thread {name!r} cannot start ({why}): the process has reached its limit of "
            "memory or threads. Raise it (ulimit -v, ulimit -u) or use fewer threads"
        ) from None
    return thread


class _Started(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(_SECONDS if timeout is None else timeout) and timeout is None:
            raise RuntimeError(f"it did not start within {_SECONDS:g} s")
        return True


def end_despite_threads(code: int) -> None:
    """Ensures that the program exits with this code despite threads that an environment left.

    Python waits at exit for each non-daemon thread without a limit. This waits for 5 s, then exits.
    """
    if _left_behind():
        thread = threading.Thread(target=_end, args=(code,), name="end", daemon=True)
        thread.start()


def _end(code: int) -> None:
    time.sleep(_END_SECONDS)
    if left := _left_behind():
        names = ", ".join(thread.name for thread in left[:3])
        print_error(
            f"warning: threads of an environment are still running ({names}), exiting without them"
        )
        os._exit(code)


def _left_behind() -> list[threading.Thread]:
    main = threading.main_thread()
    return [each for each in threading.enumerate() if not each.daemon and each is not main]
