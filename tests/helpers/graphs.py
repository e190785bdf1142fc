"""A simulated device on the CPU: traced graph captures, and streams that run late."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

# make_fx of torch 2.11 has no way to write a generator into its graph.
_TRACES_GENERATORS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)


class TracedRecorder:
    """Captures a call as torch operators on the tensors of the capture.

    A replay runs the operators again. As with a CUDA graph, no Python code runs, Python numbers are
    constants, and tensors are read in place. A call that reads values back cannot be traced.
    """

    def __init__(self):
        self.recorded = 0

    def __call__(
        self, call: Callable[[], Any], generators: Any = ()
    ) -> tuple[Callable[[], None], Any]:
        if generators and not _TRACES_GENERATORS:
            pytest.skip("make_fx of this torch cannot trace generators")
        self.recorded += 1
        call()  # allocates what the first call needs
        traced = make_fx(call, tracing_mode="real")()
        result = call()

        def replay() -> None:
            with torch.no_grad():
                again = traced()
            for kept, new in zip(_all(result), _all(again), strict=True):
                kept.copy_(new)

        return replay, result


def _all(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


class LateEvent:
    """A CUDA event: recorded any number of times, and reached in that order."""

    def __init__(self):
        self.recorded = self.reached = 0


class LateStreams:
    """Two streams that only run when the test advances them.

    An entry is (event, how often it must have been reached, the work that follows).
    """

    def __init__(self):
        self.copies: deque[tuple[LateEvent, int, Callable[[], Any]]] = deque()
        self.computing: deque[tuple[LateEvent, int, Callable[[], Any]]] = deque()

    def event(self) -> LateEvent:
        return LateEvent()

    def host_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def device_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def upload(self, to: Tensor, source: Tensor, after: LateEvent, then: LateEvent) -> None:
        self._enqueue(self.copies, lambda: to.copy_(source), after)
        self._record(self.copies, then)
        self._enqueue(self.computing, lambda: None, then)

    def record(self, event: LateEvent) -> None:
        self._record(self.computing, event)

    def download(self, to: Tensor, source: Tensor, then: LateEvent) -> None:
        self.compute(lambda: to.copy_(source))
        self._record(self.computing, then)

    def compute(self, call: Callable[[], Any]) -> None:
        """Enqueues work of the learner."""
        self._enqueue(self.computing, call)

    def wait(self, event: LateEvent) -> None:
        """Advances the streams until the event is reached, and no further."""
        while event.reached < event.recorded:
            assert self.run_next(self.copies) or self.run_next(self.computing), "a deadlock"

    def run_next(self, stream: deque) -> bool:
        """Runs the next operation of a stream if its events are reached."""
        if not stream or stream[0][0].reached < stream[0][1]:
            return False
        stream.popleft()[2]()
        return True

    def _enqueue(
        self, stream: deque, call: Callable[[], Any], after: LateEvent | None = None
    ) -> None:
        after = after or LateEvent()
        stream.append((after, after.recorded, call))

    def _record(self, stream: deque, event: LateEvent) -> None:
        event.recorded += 1

        def reach() -> None:
            event.reached += 1

        self._enqueue(stream, reach)
