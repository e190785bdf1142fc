"""Signals: the first asks a run to stop in order, the second ends the process at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastdqn.output import tell
from fastdqn.threads import start_thread

# Seconds after which somebody who asked is told that the run still waits.
_PATIENCE = 5.0
# Seconds within which a second signal is the first one's echo: a terminal's Ctrl-C goes to all of
# its processes, and some of those hand it on.
_ECHO = 0.5
_EXIT_CODE = 130
_ASK = (signal.SIGINT, signal.SIGTERM)
_OVER = b"\0"  # no signal's number

# Handlers from before, while runs listen: a forked child goes back to the first of them.
_before: list[dict[signal.Signals, Any]] = []


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM are heard by a thread; yields whether one has come.

    A Python handler waits until the main thread comes back from C++, which it may never do; the
    byte that the C handler writes to a pipe is there at once. A signal that is ignored, as by
    nohup, stays so. Outside of the main thread, which alone may set handlers, nothing is changed
    and nothing is heard. A child that is forked meanwhile has the handlers from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    asked, over = threading.Event(), threading.Event()
    watcher = start_thread(_watch, reader, asked, over, name="signals")
    handlers = {number: signal.getsignal(number) for number in _ASK}
    heard = {number: each for number, each in handlers.items() if each is not signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _before.append(heard)
    for number in heard:
        signal.signal(number, _heard_elsewhere)
    process = os.getpid()
    try:
        yield asked.is_set
    finally:
        if os.getpid() == process:  # a forked child's copy of the pipe is the parent's
            _go_back(_before.pop(), wakeup)
            over.set()
            with contextlib.suppress(OSError):  # an environment closed it
                os.write(writer, _OVER)
            watcher.join(_PATIENCE)
            for end in (reader, writer):
                with contextlib.suppress(OSError):
                    os.close(end)


def _go_back(handlers: dict[signal.Signals, Any], wakeup: int) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    signal.set_wakeup_fd(wakeup)


def _be_a_child() -> None:
    """A child's signals are its own: they must neither be ignored nor reach the parent's pipe."""
    if _before:
        _go_back(_before[0], -1)
        _before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_be_a_child)


def _heard_elsewhere(number, frame) -> None:
    """A handler must be there, or the signal would do what it does by default."""


def _watch(reader: int, asked: threading.Event, over: threading.Event) -> None:
    late: threading.Timer | None = None
    first = 0.0
    while not over.is_set():
        heard = os.read(reader, 1)
        if not heard or heard == _OVER:
            break
        if heard[0] not in _ASK:  # the pipe tells of every signal that has a handler
            continue
        if asked.is_set():
            if time.monotonic() - first >= _ECHO:
                _leave()
            continue
        first = time.monotonic()
        asked.set()
        late = threading.Timer(_PATIENCE, _say_that_it_waits)
        late.daemon = True
        with contextlib.suppress(RuntimeError, MemoryError):  # no more threads: it is not told
            late.start()
    if late is not None:
        late.cancel()


def _say_that_it_waits() -> None:
    tell("asked to stop; environments or the disk have not answered yet (once more ends at once)")


def _leave() -> None:
    """End now, and leave no process behind; files are whole at every moment."""
    try:
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(_EXIT_CODE)
