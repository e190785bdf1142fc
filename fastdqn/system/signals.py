"""Signals: SIGINT, SIGTERM and SIGHUP end a run in order, SIGUSR1 asks for a checkpoint.

A second signal that ends a run ends the process at once. When a run has ended in order, the signal
is passed on to the handler that was there before the run.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from fastdqn.system.standard_streams import tell
from fastdqn.system.threads import start_thread

# Seconds after which somebody who asked is told that the run still waits.
_PATIENCE = 5.0
# Seconds within which a second signal is the first one's echo: a terminal's Ctrl-C goes to all of
# its processes, and some of those hand it on.
_ECHO = 0.5
_EXIT_CODE = 130
_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHECKPOINT = signal.SIGUSR1
_OVER = b"\0"  # no signal's number

# Handlers from before, while runs listen: a forked child goes back to the first of them.
_before: list[dict[signal.Signals, Any]] = []
# Signals that ended runs, until they are passed on.
_received: list[int] = []
_is_answered = False


class Requests:
    """What signals have asked of a run so far.

    ended_by  the signal that asked it to end, or None
    """

    def __init__(self):
        self.ended_by: int | None = None
        self._stop, self._checkpoint = threading.Event(), threading.Event()

    def stop(self) -> bool:
        """Whether the run is to end."""
        return self._stop.is_set()

    def checkpoint(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked = self._checkpoint.is_set()
        if asked:
            self._checkpoint.clear()
        return asked

    def ask_to_stop(self, number: int) -> None:
        self.ended_by = number
        self._stop.set()

    def ask_for_checkpoint(self) -> None:
        self._checkpoint.set()


@contextlib.contextmanager
def listen() -> Iterator[Requests]:
    """Within, signals are heard by a thread; yields what they have asked for.

    A Python handler waits until the main thread comes back from C++, which it may never do; the
    byte that the C handler writes to a pipe is there at once. A signal that is ignored, as by
    nohup, stays so, and so does a handler of the user's for SIGUSR1. Outside of the main thread,
    which alone may set handlers, nothing is changed and nothing is heard. A child that is forked
    meanwhile has the handlers from before.
    """
    requests = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()
    try:
        watcher = start_thread(_watch, reader, requests, over, name="signals")
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    heard = _heard_signals()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _before.append(heard)
    for number in heard:
        signal.signal(number, _heard_elsewhere)
    process = os.getpid()
    try:
        yield requests
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
            if requests.ended_by is not None:
                _received.append(requests.ended_by)


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Around all that belongs to a run: a signal that ended it does afterwards what it would have
    done without the run. So SIGINT raises KeyboardInterrupt, and SIGTERM ends the process, where
    there were no handlers. Where the run raised, its error tells the caller to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()  # of runs around which nobody passes anything on
    try:
        yield
    except BaseException:
        _received.clear()
        raise
    if _received:
        number = _received.pop()
        if not _is_answered:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()  # the process may be gone in a moment
            signal.raise_signal(number)


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Within, signals that ended a run are not passed on: the caller's exit code tells of them."""
    global _is_answered
    _is_answered = True
    try:
        yield
    finally:
        _is_answered = False


def prepare_program() -> None:
    """From here on, what ends a run raises KeyboardInterrupt before there is one, and SIGUSR1 does
    nothing. A signal that is ignored stays so; outside of the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _END[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if signal.getsignal(_CHECKPOINT) is signal.SIG_DFL:
        signal.signal(_CHECKPOINT, _nothing_to_save)


def ignore() -> None:
    """The program is ending: interrupted again, it would print a traceback on its way."""
    for number in _END:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def _nothing_to_save(number, frame) -> None:
    """A handler for SIGUSR1, whose default is to end the process."""


def _heard_signals() -> dict[signal.Signals, Any]:
    """The handlers that a run takes the place of, by signal."""
    heard = {number: signal.getsignal(number) for number in _END}
    heard = {number: each for number, each in heard.items() if each is not signal.SIG_IGN}
    handler = signal.getsignal(_CHECKPOINT)
    if handler in (signal.SIG_DFL, _nothing_to_save, _heard_elsewhere):
        heard[_CHECKPOINT] = handler
    return heard


def _go_back(handlers: dict[signal.Signals, Any], wakeup: int) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    signal.set_wakeup_fd(wakeup)


def _be_a_child() -> None:
    """A child's signals are its own: they must neither be ignored nor reach the parent's pipe."""
    if _before:
        _go_back(_before[0], -1)
        _before.clear()


os.register_at_fork(after_in_child=_be_a_child)


def _heard_elsewhere(number, frame) -> None:
    """A handler must be there, or the signal would do what it does by default."""


def _watch(reader: int, requests: Requests, over: threading.Event) -> None:
    late: threading.Timer | None = None
    first = 0.0
    while not over.is_set():
        heard = os.read(reader, 1)
        if not heard or heard == _OVER:
            break
        # The pipe tells of every signal that has a handler, the user's own among them.
        if heard[0] == _CHECKPOINT:
            requests.ask_for_checkpoint()
        if heard[0] not in _END:
            continue
        if requests.stop():
            if time.monotonic() - first >= _ECHO:
                _leave()
            continue
        first = time.monotonic()
        requests.ask_to_stop(heard[0])
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
