"""Idle threads: daemon threads that run only while a core is idle (SCHED_IDLE)."""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from fastdqn.system.python_threads import ThreadError, start_thread

# Without this policy such a thread would compete with the thread that it helps.
HAS_SPARE = hasattr(os, "SCHED_IDLE")


def start_spare(work: Callable[..., Any], *args: Any) -> threading.Thread | None:
    """Calls work in an idle daemon thread. Returns None if the system has no idle threads.

    work must not hold the GIL: an idle thread may be paused at any time and would stop all others.
    """
    if not HAS_SPARE:
        return None
    try:
        return start_thread(_run, work, *args, name="spare")
    except ThreadError:  # the thread limit is reached, or Python is exiting
        return None


def _run(work: Callable[..., Any], *args: Any) -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    work(*args)
