"""Starting threads: one that cannot start is an error, never a wait for ever."""

import sys
import threading
from collections.abc import Callable
from typing import Any

# Seconds that a new thread may take to begin. Ours, untuned: it takes less than a millisecond.
_SECONDS = 20.0


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
