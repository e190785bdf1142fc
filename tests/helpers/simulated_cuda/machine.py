"""Machine: the state of all simulated devices, and what was found wrong."""

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor

from helpers.simulated_cuda.clocks import HOST, Access, Clocks, remembered
from helpers.simulated_cuda.memory import Block, Memory, extent, place


class Machine:
    """Two devices and a host.

    Attributes:
        problems: Accesses that are not ordered, and uses of freed memory: one line each.
        counts: Captures, graph launches, copies by kind, and calls that wait for the device.
        operators: Operators that compute on a device, by name.
        waits_are_errors: Whether a call that waits for a device fails, as in sync debug mode.
    """

    NUM_DEVICES = 2

    def __init__(self):
        self.memory, self.clocks = Memory(), Clocks()
        self.device = 0
        self.problems: list[str] = []
        self.counts, self.operators = Counter[str](), Counter[str]()
        self.waits_are_errors = False
        self.graphs_of_pool = defaultdict[Any, list[Any]](list)  # in the order of their captures
        self.stuck_pools = set[Any]()  # of failed captures, which CUDA does not end
        self._chosen: dict[int, Any] = {}  # streams by device
        self.make_stream: Any = None

    def index_of(self, device: Any) -> int:
        """Returns the index of a CUDA device; None is the current one."""
        if device is None:
            return self.device
        if isinstance(device, int):
            return device
        index = torch.device(device).index
        return self.device if index is None else index

    def current(self, index: int | None = None) -> Any:
        """Returns the current stream of a device."""
        index = self.device if index is None else index
        if index not in self._chosen:
            self._chosen[index] = self.make_stream(torch.device("cuda", index))
        return self._chosen[index]

    def choose(self, stream: Any) -> None:
        self._chosen[stream.index] = stream

    def found(self, line: str) -> None:
        if line not in self.problems:
            self.problems.append(line)

    def refuse_in_capture(self, what: str) -> None:
        """Raises, and makes the capture fail, if the current stream is captured."""
        capture = self.current().capture
        if capture is not None and capture.concerns_this_thread():
            capture.broken = True
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({what})"
            )

    def synchronizes(self, what: str) -> None:
        """Before an operation for which the host waits."""
        self.refuse_in_capture(what)
        if self.waits_are_errors:
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
        self.counts[f"wait: {what}"] += 1

    def synchronize(self) -> None:
        self.synchronizes("cudaDeviceSynchronize")
        self.clocks.follow_all()

    def touch(self, tensor: Tensor, who: int, writes: bool, what: str) -> None:
        """Notes an access to a tensor of a device or of pinned memory."""
        block, span = self.memory.of(tensor), extent(tensor)
        if block is not None and span is not None:
            self.touch_block(block, span, who, writes, what)

    def touch_block(
        self, block: Block, span: tuple[int, int], who: int, writes: bool, what: str
    ) -> None:
        new = Access(who, self.clocks.now(who), *span, writes, what)
        if (old := self.clocks.conflict(block.past, new)) is not None:
            self.found(
                f"{what} is not ordered after {old.what}, in memory made at {block.made} "
                f"({_name(who)} after {_name(old.who)}, {place()})"
            )
        block.past = remembered(block.past, new)

    def host_touches(self, tensor: Tensor, what: str) -> None:
        """Notes that the host may write pinned memory."""
        self.clocks.step(HOST)
        self.touch(tensor, HOST, True, what)


def _name(who: int) -> str:
    return "the host" if who == HOST else f"stream {who}"
