"""Memory: CPU storages that count as memory of a device, or as pinned memory of the host."""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes

from helpers.simulated_cuda.clocks import Access


class Block:
    """A storage of a device or of pinned memory.

    Attributes:
        device: Index of the device. None: pinned memory.
        graph: The graph that allocated it during its capture, or None.
        past: Accesses that later ones must be ordered after.
        made: Place in the code that allocated it.
    """

    def __init__(self, tensor: Tensor, device: int | None, graph: Any):
        storage = tensor.untyped_storage()
        # The weak reference keeps the key unique, not the bytes.
        self.ref, self.nbytes = StorageWeakRef(storage), storage.nbytes()
        self.device, self.graph = device, graph
        self.past: list[Access] = []
        self.made = place()

    def bytes(self) -> Tensor | None:
        """Returns uint8[N], or None if the memory was freed."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.ref.cdata)
        if storage is None:
            return None
        with _disable_current_modes():
            return torch.empty(0, dtype=torch.uint8).set_(storage)

    def fill_with_garbage(self) -> None:
        """Sets all bytes to 255: NaN in floats and -1 in integers."""
        if (there := self.bytes()) is not None:
            with _disable_current_modes():
                there.fill_(255)


class Memory:
    """All blocks, by storage.

    Attributes:
        capacity: Bytes of a device; None is unlimited.
    """

    def __init__(self):
        self._blocks: dict[int, Block] = {}
        self.capacity: int | None = None

    def of(self, tensor: Tensor) -> Block | None:
        return self._blocks.get(tensor.untyped_storage()._cdata)

    def device_of(self, tensor: Tensor) -> int | None:
        block = self.of(tensor)
        return None if block is None else block.device

    def is_pinned(self, tensor: Tensor) -> bool:
        block = self.of(tensor)
        return block is not None and block.device is None

    def add(self, tensor: Tensor, device: int | None, graph: Any = None) -> Block:
        """Records a new tensor; raises OutOfMemoryError beyond the capacity."""
        if (known := self.of(tensor)) is not None:
            return known
        block = Block(tensor, device, graph)
        if device is not None and self._exceeds(device, block.nbytes):
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {block.nbytes} bytes. GPU {device} has a "
                f"total capacity of {self.capacity} bytes"
            )
        self._blocks[tensor.untyped_storage()._cdata] = block
        if len(self._blocks) % 5_000 == 0:
            self._forget_freed()
        return block

    def live(self, device: int) -> list[Block]:
        """Returns the blocks of a device that are in use."""
        self._forget_freed()
        return [block for block in self._blocks.values() if block.device == device]

    def used(self, device: int) -> int:
        return sum(block.nbytes for block in self.live(device))

    def _exceeds(self, device: int, more: int) -> bool:
        return self.capacity is not None and self.used(device) + more > self.capacity

    def _forget_freed(self) -> None:
        self._blocks = {k: block for k, block in self._blocks.items() if not block.ref.expired()}


def extent(tensor: Tensor) -> tuple[int, int] | None:
    """Returns the first and the last byte + 1 of a tensor in its storage; None if it is empty."""
    if tensor.numel() == 0:
        return None
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, size = int(tensor.storage_offset()), tensor.element_size()
    return start * size, int(start + reach + 1) * size


def place() -> str:
    """Returns the innermost lines of the package that are being executed."""
    names, frame = [], sys._getframe(1)
    while frame is not None and len(names) < 2:
        if "/fastdqn/" in (name := frame.f_code.co_filename) and "/tests/" not in name:
            names.append(f"{name.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names) or "a test"
