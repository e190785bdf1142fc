"""Signals: the first asks a run to stop in order, the second ends the process at once."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Seconds after which somebody who asked is told that the run still waits for its environments.
_PATIENCE = 5.0
# Seconds within which a second signal is the first one's echo: a terminal's Ctrl-C goes to all of
# its processes, and some of those hand it on.
_ECHO = 0.5
_EXIT_CODE = 130


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM are heard by a thread; yields whether one has come.

    A Python handler waits until the main thread comes back from C++, which it may never do; the
    byte that the C handler writes to a pipe is there at once. Outside of the main thread, which
    alone may set handlers, nothing is changed and nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    asked, over = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(reader, asked, over), daemon=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, _heard_elsewhere)
    watcher.start()
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        over.set()
        os.write(writer, b"\0")  # no signal's number: the watcher is done
        watcher.join()
        os.close(reader)
        os.close(writer)


def _heard_elsewhere(number, frame) -> None:
    """A handler must be there, or the signal would do what it does by default."""


def _watch(reader: int, asked: threading.Event, over: threading.Event) -> None:
    late: threading.Timer | None = None
    first = 0.0
    while not over.is_set():
        if os.read(reader, 1) == b"\0":
            break
        if asked.is_set():
            if time.monotonic() - first >= _ECHO:
                _leave()
            continue
        first = time.monotonic()
        asked.set()
        late = threading.Timer(_PATIENCE, _say_that_it_waits)
        late.daemon = True
        late.start()
    if late is not None:
        late.cancel()


def _say_that_it_waits() -> None:
    print(
        "asked to stop; the environments have not answered yet (once more ends at once)",
        file=sys.stderr,
    )


def _leave() -> None:
    """End now, and leave no process behind; files are whole at every moment."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(_EXIT_CODE)
