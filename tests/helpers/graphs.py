"""A simulated device on the CPU: traced graph captures, and streams that run late."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


class TracedRecorder:
    """Captures a call as torch operators on the tensors of the capture.

    A replay runs them again: as with a CUDA graph, Python is not asked, numbers of Python's are as
    they were, and tensors are read where they lay. What a call reads back cannot be traced.
    """

    def __init__(self):
        self.recorded = 0

    def __call__(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        call()  # what is made at a first call is made
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


class LateMark:
    """A CUDA event: recorded any number of times, and reached in that order."""

    def __init__(self):
        self.put = self.reached = 0


class LateQueues:
    """Two streams that only run when the test advances them.

    An entry is (a mark, and how often it must have been reached; what is done then).
    """

    def __init__(self):
        self.copies: deque[tuple[LateMark, int, Callable[[], Any]]] = deque()
        self.computing: deque[tuple[LateMark, int, Callable[[], Any]]] = deque()

    def mark(self) -> LateMark:
        return LateMark()

    def host_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def device_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def upload(self, to: Tensor, source: Tensor, after: LateMark, then: LateMark) -> None:
        self._ask(self.copies, lambda: to.copy_(source), after)
        self._put(self.copies, then)
        self._ask(self.computing, lambda: None, then)

    def put(self, mark: LateMark) -> None:
        self._put(self.computing, mark)

    def download(self, to: Tensor, source: Tensor, then: LateMark) -> None:
        self.compute(lambda: to.copy_(source))
        self._put(self.computing, then)

    def compute(self, call: Callable[[], Any]) -> None:
        """The interface that the learner uses."""
        self._ask(self.computing, call)

    def wait(self, mark: LateMark) -> None:
        """Advances the streams until the event is reached, and no further."""
        while mark.reached < mark.put:
            assert self.go_on(self.copies) or self.go_on(self.computing), "they wait for each other"

    def go_on(self, queue: deque) -> bool:
        """Runs the next operation of a stream if its events are reached."""
        if not queue or queue[0][0].reached < queue[0][1]:
            return False
        queue.popleft()[2]()
        return True

    def _ask(self, queue: deque, call: Callable[[], Any], after: LateMark | None = None) -> None:
        after = after or LateMark()
        queue.append((after, after.put, call))

    def _put(self, queue: deque, mark: LateMark) -> None:
        mark.put += 1

        def reach() -> None:
            mark.reached += 1

        self._ask(queue, reach)
