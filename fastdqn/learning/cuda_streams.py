"""DeviceStreams: CUDA streams and events for computing and copying."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

# Recorded in a stream, and reached when all earlier work in that stream is done.
Event = Any
_Result = TypeVar("_Result")


class DeviceStreams(Protocol):
    """Two streams of a device: one computes, the other copies from the host at the same time."""

    def event(self) -> Event:
        """Returns a new event, which counts as reached until it is recorded."""
        ...

    def host_bytes(self, count: int) -> Tensor:
        """Returns uint8[count] on the host, pinned, so that a copy from it is asynchronous."""
        ...

    def device_bytes(self, count: int) -> Tensor: ...

    def upload(self, to: Tensor, source: Tensor, after: Event, then: Event) -> None:
        """Copies in the copy stream after `after` and records `then`, for which computing waits."""
        ...

    def record(self, event: Event) -> None:
        """Records an event in the compute stream."""
        ...

    def download(self, to: Tensor, source: Tensor, then: Event) -> None:
        """Copies in the compute stream and records `then`."""
        ...

    def wait(self, event: Event) -> None:
        """Blocks the host until an event is reached."""
        ...


class CudaStreams:
    """The current stream of a CUDA device, and a stream for copies."""

    def __init__(self, device: torch.device):
        self._device = device
        self._copies = torch.cuda.Stream(device)

    def event(self) -> torch.cuda.Event:
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
        # The current device may differ from the batch's.
        torch.cuda.current_stream(self._device).wait_event(then)

    def record(self, event: torch.cuda.Event) -> None:
        event.record(torch.cuda.current_stream(self._device))

    def download(self, to: Tensor, source: Tensor, then: torch.cuda.Event) -> None:
        to.copy_(source, non_blocking=True)
        self.record(then)

    def wait(self, event: torch.cuda.Event) -> None:
        event.synchronize()


class HostStreams:
    """The CPU, where every call has finished when it returns."""

    def event(self) -> None:
        return None

    def host_bytes(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    device_bytes = host_bytes

    def upload(self, to: Tensor, source: Tensor, after: None, then: None) -> None:
        to.copy_(source)

    def record(self, event: None) -> None:
        """Does nothing: all earlier work is done."""

    def download(self, to: Tensor, source: Tensor, then: None) -> None:
        to.copy_(source)

    def wait(self, event: None) -> None:
        """Does nothing: all earlier work is done."""


class Branches(Protocol):
    """Work that may run at the same time as other work of a device."""

    def start(self, call: Callable[[], _Result]) -> _Result:
        """Starts a call after all work so far. Its result may be used after end()."""
        ...

    def end(self) -> None:
        """Makes all later work wait for the started calls."""
        ...


class _OneByOne:
    """Runs each call at once."""

    def start(self, call: Callable[[], _Result]) -> _Result:
        return call()

    def end(self) -> None:
        """Does nothing: all calls are done."""


one_by_one: Branches = _OneByOne()


class CudaBranches:
    """Streams beside the current one: branches of a graph that is being captured."""

    def __init__(self, device: torch.device):
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        self._started = 0

    def start(self, call: Callable[[], _Result]) -> _Result:
        if self._started == len(self._streams):
            self._streams.append(torch.cuda.Stream(self._device))
        stream = self._streams[self._started]
        self._started += 1
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            return call()

    def end(self) -> None:
        started, self._started = self._started, 0  # after an error, too
        for stream in self._streams[:started]:
            torch.cuda.current_stream(self._device).wait_stream(stream)


def streams_for(device: torch.device) -> DeviceStreams:
    return HostStreams() if device.type == "cpu" else CudaStreams(device)
