"""Spare: a thread that runs only where a core has nothing else to do."""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from fastdqn.system.threads import ThreadError, start_thread

# Elsewhere such a thread would take a busy machine's cores from the one that it helps.
HAS_SPARE = hasattr(os, "SCHED_IDLE")


def start_spare(work: Callable[..., Any], *args: Any) -> threading.Thread | None:
    """Call work in a daemon thread of the idle class; None where the system has no such thread.

    A thread that does not run while it has the GIL would stop all others: work must be without it.
    """
    if not HAS_SPARE:
        return None
    try:
        return start_thread(_run, work, *args, name="spare")
    except ThreadError:  # the system has no more threads, or Python is about to end
        return None


def _run(work: Callable[..., Any], *args: Any) -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    work(*args)
