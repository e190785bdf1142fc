"""Threads: one that cannot start is an error, and one that is left behind holds nothing up."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastdqn.system.standard_streams import tell

# Seconds that a new thread may take to begin. Ours, untuned: it takes less than a millisecond.
_SECONDS = 20.0
# Seconds that a program waits at its end for threads that an environment left. Ours, untuned.
_END_SECONDS = 5.0


class ThreadError(RuntimeError):
    """A thread did not start: the process is at a limit of memory or of threads."""


def start_thread(target: Callable[..., Any], *args: Any, name: str) -> threading.Thread:
    """Call target(*args) in a daemon thread. Raises ThreadError, one line, where it cannot start.

    threading itself waits for ever for a thread that runs out of memory before its first line, and
    refuses to make any while an environment has set an exception hook to None.
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
            f"the thread {name!r} cannot start ({why}): this process is at its limit of memory or "
            "threads. Raise it (ulimit -v, ulimit -u) or use fewer of them"
        ) from None
    return thread


class _Started(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(_SECONDS if timeout is None else timeout) and timeout is None:
            raise RuntimeError(f"it has not begun after {_SECONDS:g} s")
        return True


def end_despite_threads(code: int) -> None:
    """Let the program end with this exit code although an environment has left a thread behind.

    Python waits at its end for each thread that is no daemon, without a limit. Those that end
    within some seconds are waited for.
    """
    if _left_behind():
        thread = threading.Thread(target=_end, args=(code,), name="end", daemon=True)
        thread.start()


def _end(code: int) -> None:
    time.sleep(_END_SECONDS)
    if left := _left_behind():
        names = ", ".join(thread.name for thread in left[:3])
        tell(f"warning: threads that an environment has left still run ({names}): not waited for")
        os._exit(code)


def _left_behind() -> list[threading.Thread]:
    main = threading.main_thread()
    return [each for each in threading.enumerate() if not each.daemon and each is not main]
