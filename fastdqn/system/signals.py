"""Signals: SIGINT, SIGTERM and SIGHUP stop a run cleanly, SIGUSR1 requests a checkpoint.

A second stop signal ends the process at once. After a clean stop, the signal is passed on to the
handler that was installed before the run.
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

from fastdqn.system.python_threads import start_thread
from fastdqn.system.standard_streams import print_error

# Seconds until a message says that the run has not stopped yet.
_PATIENCE = 5.0
# Seconds within which a second signal counts as an echo of the first: Ctrl-C in a terminal goes to
# all of its processes, and some of them forward it.
_ECHO = 0.5
_EXIT_CODE = 130
_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHECKPOINT = signal.SIGUSR1
_OVER = b"\0"  # not a signal number

# Earlier handlers of nested runs. A forked child restores the outermost ones.
_before: list[dict[signal.Signals, Any]] = []
# Signals that stopped runs and have not been passed on.
_received: list[int] = []
_is_answered = False


class Requests:
    """What signals have requested so far.

    Attributes:
        ended_by: The signal that requested the stop, or None.
    """

    def __init__(self):
        self.ended_by: int | None = None
        self._stop, self._checkpoint = threading.Event(), threading.Event()

    def stop(self) -> bool:
        """Returns whether the run should stop."""
        return self._stop.is_set()

    def checkpoint(self) -> bool:
        """Returns whether a checkpoint was requested since the last call."""
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
    """Within, a thread receives signals. Yields the requests.

    A Python handler runs only once the main thread returns from C++, which may never happen. The
    wakeup pipe is written at once. Ignored signals, such as under nohup, stay ignored, and the
    user's handler of SIGUSR1 stays. Outside of the main thread, which alone may install handlers,
    nothing changes and no signal is received. Forked children get the earlier handlers.
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
        if os.getpid() == process:  # in a forked child the pipe belongs to the parent
            _go_back(_before.pop(), wakeup)
            over.set()
            with contextlib.suppress(OSError):  # an environment has closed it
                os.write(writer, _OVER)
            watcher.join(_PATIENCE)
            for end in (reader, writer):
                with contextlib.suppress(OSError):
                    os.close(end)
            if requests.ended_by is not None:
                _received.append(requests.ended_by)


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Around a run: a signal that stopped it afterwards has its usual effect.

    Without other handlers, SIGINT raises KeyboardInterrupt, and SIGTERM ends the process. If the
    run raises, its exception takes precedence.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()  # left by runs outside of passed_on()
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
                    stream.flush()  # the process may end now
            signal.raise_signal(number)


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Within, stop signals are not passed on, since the caller reports them by its exit code."""
    global _is_answered
    _is_answered = True
    try:
        yield
    finally:
        _is_answered = False


def prepare_program() -> None:
    """Installs handlers for the time before a run: stop signals raise KeyboardInterrupt.

    SIGUSR1 has no effect. Ignored signals stay ignored. Outside of the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _END[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if signal.getsignal(_CHECKPOINT) is signal.SIG_DFL:
        signal.signal(_CHECKPOINT, _nothing_to_save)


def ignore() -> None:
    """Ignores stop signals while the program exits, where they would print a traceback."""
    for number in _END:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def _nothing_to_save(number, frame) -> None:
    """Replaces the default of SIGUSR1, which ends the process."""


def _heard_signals() -> dict[signal.Signals, Any]:
    """Returns the handlers that a run replaces, by signal."""
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
    """Restores the handlers in a forked child, whose signals must not reach the parent's pipe."""
    if _before:
        _go_back(_before[0], -1)
        _before.clear()


os.register_at_fork(after_in_child=_be_a_child)


def _heard_elsewhere(number, frame) -> None:
    """Replaces the default effect. The signal is received through the wakeup pipe."""


def _watch(reader: int, requests: Requests, over: threading.Event) -> None:
    late: threading.Timer | None = None
    first = 0.0
    while not over.is_set():
        heard = os.read(reader, 1)
        if not heard or heard == _OVER:
            break
        # The pipe also receives signals with handlers of the user.
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
        late = threading.Timer(_PATIENCE, _report_waiting)
        late.daemon = True
        with contextlib.suppress(RuntimeError, MemoryError):  # too many threads: no message
            late.start()
    if late is not None:
        late.cancel()


def _report_waiting() -> None:
    print_error("stopping: waiting for environments or the disk (a second signal ends at once)")


def _leave() -> None:
    """Ends the process and its children at once. Files are consistent at any time."""
    try:
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(_EXIT_CODE)
