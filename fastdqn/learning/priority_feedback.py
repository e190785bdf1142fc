"""Returns: priorities on their way back from the device to the replay, a fixed number of calls
late."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.cuda_streams import Mark
from fastdqn.state_dict import State, StateError, take, take_count


class _Waiting(NamedTuple):
    """Priorities of one launch on their way to the replay.

    rows [K] of index [B] int64; priority [K B] float32 once mark is reached
    """

    rows: list[np.ndarray]
    priority: torch.Tensor
    mark: Mark


class Returns:
    """send() priorities after each call of the learner; arrived() gives those of `lag` calls ago.

    lag  0: it waits until the last call's are there. 1: a device computes while those of the call
         before are taken, and nobody waits for it to run empty. The rows are absolute, so what is
         late is dropped where its row is gone.
    staging  whose batches they are of: it has a slot more than lag, in which the rows stay
    """

    def __init__(self, staging: Staging, lag: int):
        self._staging, self.lag = staging, lag
        self._waiting: deque[_Waiting] = deque()
        queues, size = staging.queues, staging.together * len(staging.device.action)
        self._buffers = [
            (queues.host_bytes(4 * size).view(torch.float32), queues.mark()) for _ in range(lag + 1)
        ]
        self._turn = 0

    def send(self, priority: torch.Tensor) -> None:
        """Set priorities [K B] of the last upload's batches going."""
        buffer, mark = self._buffers[self._turn]
        self._turn = (self._turn + 1) % len(self._buffers)
        count = len(priority) // len(self._staging.device.action)
        to = buffer[: len(priority)]
        self._staging.queues.download(to, priority, mark)
        rows = [batch.index for batch in self._staging.last_hosts(count)]
        self._waiting.append(_Waiting(rows, to, mark))

    def arrived(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(index [B], priority [B]) of each batch whose time has come, to be used at once."""
        while len(self._waiting) > self.lag:
            yield from self._of(self._waiting.popleft())

    def _of(self, waiting: _Waiting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._staging.queues.wait(waiting.mark)
        each = np.split(waiting.priority.numpy(), len(waiting.rows))
        return zip(waiting.rows, each, strict=True)

    def state(self) -> State:
        """What is still on its way; this waits for the device."""
        pairs = [pair for waiting in self._waiting for pair in self._of(waiting)]
        return {
            "batches": len(pairs),
            "index": np.concatenate([np.empty(0, np.int64), *(index for index, _ in pairs)]),
            "priority": np.concatenate([np.empty(0, np.float32), *(each for _, each in pairs)]),
        }

    def load_state(self, state: State) -> None:
        """Go on from a state. Raises StateError."""
        count, size = take_count(state, "batches"), len(self._staging.device.action)
        index, priority = take(state, "index"), take(state, "priority")
        for name, array, dtype in (("index", index, np.int64), ("priority", priority, np.float32)):
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise StateError(f"{name} is no array of {np.dtype(dtype)}")
            if array.shape != (count * size,) or count > self.lag * self._staging.together:
                raise StateError(f"{name} has shape {array.shape}: {count} batches of {size}")
        self._waiting.clear()
        if count:
            rows = np.split(index.copy(), count)
            arrived = self._staging.queues.mark()
            self._waiting.append(_Waiting(rows, torch.from_numpy(priority.copy()), arrived))
