"""Streams and events of a simulated device."""

import itertools
import time
from typing import Any

import torch

from helpers.simulated_cuda.clocks import HOST, Clock
from helpers.simulated_cuda.machine import Machine


class Stream:
    """A stream. While it is captured, `capture` is the graph that records its work."""

    _ids = itertools.count()

    def __init__(self, machine: Machine, device: Any = None, priority: int = 0):
        self._machine = machine
        self.index = machine.index_of(device)
        self.device = torch.device("cuda", self.index)
        self.cuda_stream = self.id = next(Stream._ids)
        self.capture: Any = None

    def wait_stream(self, other: "Stream") -> None:
        event = Event(self._machine)
        event.record(other)
        self.wait_event(event)

    def wait_event(self, event: "Event") -> None:
        if event.clock is None:
            return
        if event.capture is not None and self.capture is None:
            event.capture.join(self)
        if event.capture is not self.capture:
            raise RuntimeError(
                "CUDA error: dependency created on uncaptured work in another stream"
            )
        self._machine.clocks.follow(self.id, HOST)
        self._machine.clocks.follow_clock(self.id, event.clock)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event(self._machine)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self._machine.synchronizes("cudaStreamSynchronize")
        self._machine.clocks.follow(HOST, self.id)

    def query(self) -> bool:
        return True


class Event:
    def __init__(self, machine: Machine, enable_timing: bool = False, **_: Any):
        self._machine = machine
        self.clock: Clock | None = None
        self.capture: Any = None
        self._index: int | None = None
        self._time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        stream = self._machine.current() if stream is None else stream
        assert stream is not None
        if self._index not in (None, stream.index):
            raise RuntimeError("Event device does not match the stream's device")
        self._index, self.capture = stream.index, stream.capture
        self._machine.clocks.follow(stream.id, HOST)
        self.clock, self._time = self._machine.clocks.copy(stream.id), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._machine.current()).wait_event(self)

    def synchronize(self) -> None:
        self._machine.refuse_in_capture("cudaEventSynchronize")
        if self.clock is not None:
            self._machine.clocks.follow_clock(HOST, self.clock)

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "Event") -> float:
        return max(1e-3, 1e3 * (end._time - self._time))
