"""PriorityFeedback: returns TD errors from the device to the replay, with a fixed delay."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.cuda_streams import Event
from fastdqn.state_dict import State, StateError, take, take_count


class _Waiting(NamedTuple):
    """rows: index int64[B] of K batches; priority: float32[K B], valid once event is reached."""

    rows: list[np.ndarray]
    priority: torch.Tensor
    event: Event


class PriorityFeedback:
    """send() priorities after each call of the learner; arrived() yields those of lag calls ago.

    Args:
        staging: Staging of the batches. It has more than lag slots, in which the row ids stay.
        lag: 0 waits for the last call. 1 processes the priorities of the previous call while the
            device computes. Row ids are absolute, so a late priority of an overwritten row is
            ignored.
    """

    def __init__(self, staging: Staging, lag: int):
        self._staging, self.lag = staging, lag
        self._waiting: deque[_Waiting] = deque()
        streams, size = staging.streams, staging.together * len(staging.device.action)
        self._buffers = [
            (streams.host_bytes(4 * size).view(torch.float32), streams.event())
            for _ in range(lag + 1)
        ]
        self._turn = 0

    def send(self, priority: torch.Tensor) -> None:
        """Starts the copy of priorities [K B] of the last upload's batches."""
        buffer, event = self._buffers[self._turn]
        self._turn = (self._turn + 1) % len(self._buffers)
        count = len(priority) // len(self._staging.device.action)
        to = buffer[: len(priority)]
        self._staging.streams.download(to, priority, event)
        rows = [batch.index for batch in self._staging.last_hosts(count)]
        self._waiting.append(_Waiting(rows, to, event))

    def arrived(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (index [B], priority [B]) of each batch that is due; use them at once."""
        while len(self._waiting) > self.lag:
            yield from self._of(self._waiting.popleft())

    def _of(self, waiting: _Waiting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._staging.streams.wait(waiting.event)
        return zip(
            waiting.rows, waiting.priority.numpy().reshape(len(waiting.rows), -1), strict=True
        )

    def state(self) -> State:
        """Returns a state dict with the priorities in flight; waits for the device."""
        pairs = [pair for waiting in self._waiting for pair in self._of(waiting)]
        return {
            "batches": len(pairs),
            "index": np.concatenate([np.empty(0, np.int64), *(index for index, _ in pairs)]),
            "priority": np.concatenate([np.empty(0, np.float32), *(each for _, each in pairs)]),
        }

    def load_state(self, state: State) -> None:
        """Loads a state dict; raises StateError."""
        count, size = take_count(state, "batches"), len(self._staging.device.action)
        index, priority = take(state, "index"), take(state, "priority")
        for name, array, dtype in (("index", index, np.int64), ("priority", priority, np.float32)):
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise StateError(f"{name} is not an array of {np.dtype(dtype)}")
            if array.shape != (count * size,) or count > self.lag * self._staging.together:
                raise StateError(
                    f"{name} has shape {array.shape}, must hold {count} batches of {size}"
                )
        self._waiting.clear()
        if count:
            rows = np.split(index.copy(), count)
            arrived = self._staging.streams.event()
            self._waiting.append(_Waiting(rows, torch.from_numpy(priority.copy()), arrived))
