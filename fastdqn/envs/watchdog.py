"""Watchdog: a thread that ends calls into environments which do not come back."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.envs.env_calls import Asking
from fastdqn.envs.env_stream import EnvStream
from fastdqn.envs.errors import EnvError, HungError, own_trace, trace_of
from fastdqn.system.standard_streams import tell
from fastdqn.system.threads import start_thread


class Making:
    """Stands where Asking will, and is a context manager around such calls.

    what  is made, for messages
    An interrupted call becomes an EnvError.
    """

    def __init__(self, what: str):
        self._what, self._under_way = what, False
        EnvStream(_Nobody())  # compiles its kernels, of which nobody is to be told that they hang

    def __enter__(self) -> "Making":
        self._under_way = True
        return self

    def __exit__(self, kind, error: BaseException | None, _) -> None:
        self._under_way = False
        if isinstance(error, HungError):
            raise self._told(str(error), own_trace(error)) from error

    def unanswered(self) -> dict[int, int]:
        """As Asking's, for all lanes together. Called from another thread."""
        return {-1: 0} if self._under_way else {}

    def give_up(self, lane: int, question: int, why: str) -> None:
        """Nothing is known of processes of lanes; who started them ends them."""

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """A call that does not come back, by the frames it is in, outermost first."""
        return self._told(why, trace_of(frames))

    def _told(self, why: str, trace: str) -> EnvError:
        told = EnvError(f"{self._what} hangs while it is made: {why}")
        told.trace = trace
        return told


class _Nobody(VectorEnv):
    """The least that a stream can be made of."""

    num_envs = 1
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    single_action_space = spaces.Discrete(1)


# Seconds that a call has to come back once it was interrupted. Ours, untuned.
_GRACE = 5.0
_TICK = 1.0
# Interrupted calls after which the program may go on. Ours, untuned.
_MOST_INTERRUPTS = 8


class Watchdog:
    """Ends what has lasted for limit seconds: a context manager, for the thread that steps.

    A lane with a process of its own is killed, and whoever waits for it hears. A call of this
    process is interrupted by an exception, by means of SIGALRM, where that is nobody else's; one
    that is in C++ does not hear it, and the process ends with code 1, told and recorded first. In
    another thread than the main one nothing can be interrupted: there it is only told.

    record  takes the error that the process ends for; what it raises is not told
    tick    seconds between two looks. Only looks count, so a process that was stopped for a while
            finds its environments as patient as before.
    """

    def __init__(self, limit: float, tick: float = _TICK):
        self._limit, self._tick = limit, min(tick, limit / 4)
        self.record: Callable[[EnvError], None] = lambda error: None
        self._watched: list[Asking | Making] = []
        self._waited: dict[tuple[int, int], tuple[int, float]] = {}
        self._verdict: tuple[Asking | Making, int] | None = None
        self._interrupts, self._begins_anew = 0, False
        self._over = threading.Event()
        self._steps = threading.get_ident()
        self._thread: threading.Thread | None = None
        self._handles = False  # SIGALRM

    def watch(self, asking: Asking | Making) -> None:
        self._watched = [*self._watched, asking]

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
        return f"no answer for {self._limit:g} s (--max-step-seconds)"

    def look(self) -> None:
        """Count what has not been answered since the last look, a tick ago, and end what must."""
        before, self._waited = self._waited, {}
        if self._begins_anew:
            before, self._begins_anew = {}, False
        for number, asking in enumerate(self._watched):
            for lane, question in asking.unanswered().items():
                known, waited = before.get((number, lane), (question, 0.0))
                waited = waited + self._tick if known == question else 0.0
                self._waited[number, lane] = question, waited
                if self._passes(waited, self._limit):
                    self._end(asking, lane, question)
                elif lane < 0 and self._passes(waited, self._limit + _GRACE):
                    self._leave(asking)

    def _passes(self, waited: float, limit: float) -> bool:
        """Whether it is with this look that the limit is reached."""
        return waited - self._tick < limit <= waited

    def _run(self) -> None:
        while not self._over.wait(self._tick):
            self.look()

    def _end(self, asking: Asking | Making, lane: int, question: int) -> None:
        if lane >= 0:
            asking.give_up(lane, question, self.why)
        elif self._handles:
            self._verdict = asking, question
            signal.pthread_kill(self._steps, signal.SIGALRM)  # it ends a sleep too

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """In the main thread: leave the call, if it is still the one that was meant."""
        verdict, self._verdict = self._verdict, None
        if verdict is not None and verdict[0].unanswered().get(-1) == verdict[1]:
            # A close() that hangs is given up, and the next call has a limit of its own; code that
            # goes on whatever interrupts it does not have it for ever.
            self._interrupts += 1
            self._begins_anew = self._interrupts <= _MOST_INTERRUPTS
            raise HungError(self.why)

    def _leave(self, asking: Asking | Making) -> None:
        """The call is deaf: tell, record and end the process, none of its children left."""
        error = asking.explain_hang(_frames_of(self._steps), self.why)
        tell(f"{error.trace.rstrip()}\nerror: {error}")
        if self._steps != threading.main_thread().ident:
            return
        try:
            with contextlib.suppress(Exception):
                self.record(error)
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            os._exit(1)


@contextlib.contextmanager
def watch(asked: Asking | Making, limit: float | None) -> Iterator[None]:
    """Around calls into environments where there is no run.

    limit  seconds, None or no such number: nobody watches
    Raises EnvError where they do not come back.
    """
    if limit is None or not 0 < limit < threading.TIMEOUT_MAX:
        yield
        return
    with Watchdog(limit) as dog:
        dog.watch(asked)
        yield


@contextlib.contextmanager
def watch_making(what: str, limit: float | None) -> Iterator[None]:
    """As watch(), around calls that make environments; what is made, for messages."""
    making = Making(what)
    with watch(making, limit), making:
        yield


def _frames_of(thread: int) -> list[FrameType]:
    """Where a thread is, outermost first."""
    frames, frame = [], sys._current_frames().get(thread)
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames
