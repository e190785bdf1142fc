"""Actor: the part of a run that acts, in a process of its own, on request of the learner."""

import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdqn.actors.block import Block, Failure, Priorities, copied, join
from fastdqn.config.schema import ConfigError
from fastdqn.envs import EnvError, EnvStream, NonFiniteError, Step
from fastdqn.envs.errors import one_line
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.policy import Policy

# Errors of environments that are one line. Others are errors of code.
_EXPLAINED = (ConfigError, EnvError, NonFiniteError)


class Rates(Protocol):
    """Computes the initial priorities of windows."""

    def append(self, step: Step) -> int:
        """Stores a step. Returns the number of windows that wait for rate()."""
        ...

    def rate(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns lanes, rows and priorities of the waiting windows, each [P]."""
        ...


class Parts(NamedTuple):
    """What an actor is made of: the same stream and policy as those of a run without actors.

    owned closes the environments.
    """

    stream: EnvStream
    policy: Policy
    online: FlatParameters
    rates: Rates | None
    owned: ExitStack


class Actor:
    """Steps its environments with the last weights that it received.

    Args:
        make: Makes the parts. It is called in the process of the actor.
        actor: Number of the actor.
        incarnation: How often its process was replaced before.
        first_lane: Its first environment in the whole run.
        block_steps: Steps of all its environments in a block.
    """

    def __init__(
        self,
        make: Callable[[], Parts],
        actor: int,
        incarnation: int,
        first_lane: int,
        block_steps: int,
    ):
        self._key = actor, incarnation
        self._first_lane, self._block_steps = first_lane, block_steps
        self._number, self._produced, self._version = 0, 0, -1
        self._warnings_sent = 0
        self._last_block_at: float | None = None
        self._parts: Parts | Failure = self._result_of(make)

    def start(self, seed: int) -> tuple[Step, bool] | Failure:
        """Resets the environments. Returns their episode starts, and whether they have masks."""
        return self._result_of(lambda: self._start(seed))

    def collect(self, weights: np.ndarray | None, version: int, epsilon: Any) -> Block | Failure:
        """Steps the environments and returns the block.

        Args:
            weights: float32[P + Q], all weights and buffers of the online network. None: those of
                before.
            version: Number of these weights.
            epsilon: One number, or one for each of the actor's environments.
        """
        return self._result_of(lambda: self._collect(weights, version, epsilon))

    def close(self) -> None:
        """Closes the environments."""
        if isinstance(self._parts, Parts):
            self._parts.owned.close()

    def _result_of(self, call: Callable[[], Any]) -> Any:
        """Returns what call() returns, or its error as a value, since errors may not travel."""
        if isinstance(getattr(self, "_parts", None), Failure):
            return self._parts
        try:
            return call()
        except Exception as error:
            line = str(error) if isinstance(error, _EXPLAINED) else one_line(error)
            trace = getattr(error, "trace", "") or traceback.format_exc()
            return Failure(type(error).__name__, line, trace)

    def _start(self, seed: int) -> tuple[Step, bool]:
        parts = self._of_parts()
        stream, start = parts.stream, parts.stream.start(seed)
        parts.policy.prepare(stream.obs, stream.mask)
        self._follow(start)
        return copied(start, self._first_lane), stream.mask is not None

    def _collect(self, weights: np.ndarray | None, version: int, epsilon: Any) -> Block:
        began = time.perf_counter()
        last = self._last_block_at
        waiting = 0.0 if last is None else began - last  # the time before the first is startup
        if weights is not None and version != self._version:
            self._take_weights(weights)
            self._version = version
        steps, waiting_windows = [], []
        for _ in range(self._block_steps):
            step = self._step(epsilon)
            steps.append(copied(step, self._first_lane))
            waiting_windows.append(self._follow(step))
        whole, ends = join(steps)
        self._produced += len(whole.lanes)
        actor, incarnation = self._key
        priorities = self._rate(np.array(waiting_windows))
        self._last_block_at, number = time.perf_counter(), self._number
        seconds = self._last_block_at - began
        self._number += 1
        return Block(
            actor, incarnation, number, whole, ends, priorities, seconds, waiting,
            self._produced, self._new_warnings(),
        )  # fmt: skip

    def _take_weights(self, weights: np.ndarray) -> None:
        online = self._of_parts().online
        split = online.weights.numel()
        np.copyto(online.weights.numpy(), weights[:split])
        np.copyto(online.buffers.numpy(), weights[split:])

    def _step(self, epsilon: Any) -> Step:
        stream, policy = self._of_parts().stream, self._of_parts().policy
        lane_epsilon = epsilon[stream.lanes] if isinstance(epsilon, np.ndarray) else epsilon
        stream.send(policy.act(stream.obs, lane_epsilon, stream.mask, stream.lanes))
        return stream.recv()

    def _follow(self, step: Step) -> int:
        """Passes a step to what follows it. Returns the number of windows that wait for rates."""
        parts = self._of_parts()
        if parts.policy.repeats is not None:
            parts.policy.repeats.follow(step)
        return 0 if parts.rates is None else parts.rates.append(step)

    def _rate(self, ends: np.ndarray) -> Priorities | None:
        rates = self._of_parts().rates
        if rates is None:
            return None
        lane, row, priority = rates.rate()
        return Priorities(lane + self._first_lane, row, priority, ends)

    def _new_warnings(self) -> tuple[str, ...]:
        warnings = self._of_parts().stream.warnings
        new, self._warnings_sent = tuple(warnings[self._warnings_sent :]), len(warnings)
        return new

    def _of_parts(self) -> Parts:
        assert isinstance(self._parts, Parts)
        return self._parts
