"""Queues: what a device is asked to do, in order, while the host goes on."""

from typing import Any, Protocol

import torch
from torch import Tensor

# A place in a queue: reached once all that was asked for before it is over.
Mark = Any


class Queues(Protocol):
    """Two queues of a device: one computes, one copies from the host beside it."""

    def mark(self) -> Mark:
        """One that is reached, until it is put somewhere."""
        ...

    def host_bytes(self, count: int) -> Tensor:
        """[count] uint8 of the host's, which a copy may read while the host goes on."""
        ...

    def device_bytes(self, count: int) -> Tensor: ...

    def upload(self, to: Tensor, source: Tensor, after: Mark, then: Mark) -> None:
        """Copy in the queue of copies, once `after` is reached; computing waits for the end of it,
        where `then` is put."""
        ...

    def put(self, mark: Mark) -> None:
        """Put a mark behind all that the computing queue was asked for so far."""
        ...

    def download(self, to: Tensor, source: Tensor, then: Mark) -> None:
        """Copy in the computing queue, and put `then` behind it."""
        ...

    def wait(self, mark: Mark) -> None:
        """Keep the host until a mark is reached."""
        ...


class CudaQueues:
    """The current stream of a device, and a stream of copies."""

    def __init__(self, device: torch.device):
        self._device = device
        self._copies = torch.cuda.Stream(device)

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def host_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8).pin_memory()

    def device_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8, device=self._device)

    def upload(
        self, to: Tensor, source: Tensor, after: torch.cuda.Event, then: torch.cuda.Event
    ) -> None:
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(after)
            to.copy_(source, non_blocking=True)
            then.record(self._copies)
        # The current device may be another one than the batch's.
        torch.cuda.current_stream(self._device).wait_event(then)

    def put(self, mark: torch.cuda.Event) -> None:
        mark.record(torch.cuda.current_stream(self._device))

    def download(self, to: Tensor, source: Tensor, then: torch.cuda.Event) -> None:
        to.copy_(source, non_blocking=True)
        self.put(then)

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()


class NoQueues:
    """The CPU: all is over when a call returns."""

    def mark(self) -> None:
        return None

    def host_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    device_bytes = host_bytes

    def upload(self, to: Tensor, source: Tensor, after: None, then: None) -> None:
        to.copy_(source)

    def put(self, mark: None) -> None:
        """It is reached already."""

    def download(self, to: Tensor, source: Tensor, then: None) -> None:
        to.copy_(source)

    def wait(self, mark: None) -> None:
        """It is reached already."""


def queues_of(device: torch.device) -> Queues:
    return NoQueues() if device.type == "cpu" else CudaQueues(device)
