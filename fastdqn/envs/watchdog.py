"""Watchdog: a thread that ends calls into environments that do not return."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from fastdqn.envs.env_calls import EnvCalls
from fastdqn.envs.env_stream import compile_kernels
from fastdqn.envs.errors import EnvError, HungError, own_trace, trace_of
from fastdqn.system.python_threads import start_thread
from fastdqn.system.standard_streams import print_error


class EnvCreation:
    """Context manager around calls that make environments, for the Watchdog.

    An interrupted call becomes an EnvError.

    Args:
        what: What is made, for messages.
    """

    def __init__(self, what: str):
        self._what, self._under_way = what, False
        compile_kernels()  # now, so that no time limit counts it

    def __enter__(self) -> "EnvCreation":
        self._under_way = True
        return self

    def __exit__(self, kind, error: BaseException | None, _) -> None:
        self._under_way = False
        if isinstance(error, HungError):
            raise self._explain(str(error), own_trace(error)) from error

    def unanswered(self) -> dict[int, int]:
        """As EnvCalls.unanswered(), for all sub-environments together."""
        return {-1: 0} if self._under_way else {}

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        """Does nothing: the code that starts worker processes ends them."""

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """Returns the error for a call that does not return, from its stack, outermost first."""
        return self._explain(why, trace_of(frames))

    def _explain(self, why: str, trace: str) -> EnvError:
        error = EnvError(f"{self._what} hangs while it is made: {why}")
        error.trace = trace
        return error


# Seconds that an interrupted call has to return. Ours, untuned.
_GRACE = 5.0
_TICK = 1.0
# Interrupts that restart the time limit, for code that continues after each. Ours, untuned.
_MOST_INTERRUPTS = 8


class Watchdog:
    """Ends calls that take longer than limit seconds; a context manager for the stepping thread.

    - A worker process is killed, and the wait for it fails.
    - A blocking call is interrupted by an exception from SIGALRM, if no other code uses the signal.
    - A call inside C++ does not react. The error is printed and recorded, and the process exits
      with code 1.
    - Outside the main thread nothing can be interrupted. The error is only printed.

    Args:
        limit: Seconds.
        tick: Seconds between two checks. Only checks count as waiting time, so that a process that
            was suspended does not end its calls on return.

    Attributes:
        record: Receives the error before the process exits; its exceptions are ignored.
    """

    def __init__(self, limit: float, tick: float = _TICK):
        self._limit, self._tick = limit, min(tick, limit / 4)
        self.record: Callable[[EnvError], None] = lambda error: None
        self._watched: list[EnvCalls | EnvCreation] = []
        self._waited: dict[tuple[int, int], tuple[int, float]] = {}
        self._verdict: tuple[EnvCalls | EnvCreation, int] | None = None
        self._interrupts, self._begins_anew = 0, False
        self._over = threading.Event()
        self._stepping_thread = threading.get_ident()
        self._thread: threading.Thread | None = None
        self._handles = False  # whether it has installed the handler of SIGALRM

    def watch(self, calls: EnvCalls | EnvCreation) -> None:
        self._watched = [*self._watched, calls]

    def __enter__(self) -> "Watchdog":
        self._thread = start_thread(self._run, name="watchdog")
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            signal.signal(signal.SIGALRM, self._interrupted)
            self._handles = True
        return self

    def __exit__(self, *exception) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(_GRACE)
        if self._handles:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    @property
    def why(self) -> str:
        return f"no response for {self._limit:g} s (--max-step-seconds)"

    def check(self) -> None:
        """Adds a tick to the waiting time of open calls and ends those over the limit."""
        before, self._waited = self._waited, {}
        if self._begins_anew:
            before, self._begins_anew = {}, False
        for number, calls in enumerate(self._watched):
            for lane, call_id in calls.unanswered().items():
                known, waited = before.get((number, lane), (call_id, 0.0))
                waited = waited + self._tick if known == call_id else 0.0
                self._waited[number, lane] = call_id, waited
                if self._passes(waited, self._limit):
                    self._end(calls, lane, call_id)
                elif lane < 0 and self._passes(waited, self._limit + _GRACE):
                    self._exit_process(calls)

    def _passes(self, waited: float, limit: float) -> bool:
        """Whether the waiting time reached the limit in this check."""
        return waited - self._tick < limit <= waited

    def _run(self) -> None:
        while not self._over.wait(self._tick):
            self.check()

    def _end(self, calls: EnvCalls | EnvCreation, lane: int, call_id: int) -> None:
        if lane >= 0:
            calls.give_up(lane, call_id, self.why)
        elif self._handles:
            self._verdict = calls, call_id
            signal.pthread_kill(self._stepping_thread, signal.SIGALRM)  # also ends a sleep

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Signal handler in the main thread: leaves the call if it is still the one that hangs."""
        verdict, self._verdict = self._verdict, None
        if verdict is not None and verdict[0].unanswered().get(-1) == verdict[1]:
            # The next call gets a new limit, so that a close() that hangs is given up. Code that
            # continues after every interrupt gets only a few.
            self._interrupts += 1
            self._begins_anew = self._interrupts <= _MOST_INTERRUPTS
            raise HungError(self.why)

    def _exit_process(self, calls: EnvCalls | EnvCreation) -> None:
        """Prints and records the error of a call in C++, then ends the process and its children."""
        error = calls.explain_hang(_frames_of(self._stepping_thread), self.why)
        print_error(f"{error.trace.rstrip()}\nerror: {error}")
        if self._stepping_thread != threading.main_thread().ident:
            return
        try:
            with contextlib.suppress(Exception):
                self.record(error)
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            os._exit(1)


@contextlib.contextmanager
def watch(calls: EnvCalls | EnvCreation, limit: float | None) -> Iterator[None]:
    """Limits the time of calls into environments outside of a run.

    Args:
        calls: The calls to watch.
        limit: Seconds; None or a value that is not positive and finite disables the watchdog.

    Raises:
        EnvError: A call does not return.
    """
    if limit is None or not 0 < limit < threading.TIMEOUT_MAX:
        yield
        return
    with Watchdog(limit) as dog:
        dog.watch(calls)
        yield


@contextlib.contextmanager
def watch_making(what: str, limit: float | None) -> Iterator[None]:
    """As watch(), around calls that make environments. `what` names them in messages."""
    creation = EnvCreation(what)
    with watch(creation, limit), creation:
        yield


def _frames_of(thread: int) -> list[FrameType]:
    """Returns the stack of a thread, outermost first."""
    frames, frame = [], sys._current_frames().get(thread)
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames
