"""CUDA graphs of a simulated device: captures that execute nothing, and replays."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from helpers.simulated_cuda.machine import Machine
from helpers.simulated_cuda.memory import Block, extent


@dataclass(frozen=True)
class Outside:
    """A tensor over memory that was there before a capture. The graph does not keep it alive."""

    block: Block
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor | None:
        there = self.block.bytes()
        if there is None:
            return None
        return torch.empty(0, dtype=self.dtype).set_(
            there.untyped_storage(), self.offset, self.size, self.stride
        )


class Graph:
    """A graph. Memory of graphs of one pool may overlap, except for results that are kept."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self._steps: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._inside: list[Block] = []
        self._before: dict[Block, tuple[Tensor, list]] = {}
        self._accesses: dict[tuple, str] = {}  # (block, bytes, whether it writes): by what
        self._joined: list[Any] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self.broken = self._complete = False

    def begin(self, stream: Any, pool: Any, error_mode: str) -> None:
        if pool in self._machine.stuck_pools:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self._stream, self._pool = stream, pool
        self._error_mode, self._thread = error_mode, threading.get_ident()
        self.join(stream)

    def concerns_this_thread(self) -> bool:
        """Whether calls that are not permitted in a capture fail in this thread, too."""
        return self._error_mode == "global" or self._thread == threading.get_ident()

    def register_generator_state(self, generator: torch.Generator) -> None:
        self._generators.append((generator, generator.get_state()))

    def join(self, stream: Any) -> None:
        """Captures another stream, too, which waits for one that is captured."""
        stream.capture = self
        self._joined.append(stream)

    def end(self) -> None:
        """Restores what the capture wrote: a captured operation is not executed."""
        unjoined = [
            stream for stream in self._joined
            if self._machine.clocks.now(stream.id)
            > self._machine.clocks.copy(self._stream.id).get(stream.id, 0)
        ]  # fmt: skip
        for stream in self._joined:
            stream.capture = None
        with _disable_current_modes():
            for block, (values, past) in self._before.items():
                there = block.bytes()
                if there is not None:
                    there.copy_(values)
                block.past = past
        for generator, state in self._generators:
            generator.set_state(state)
        for block in self._inside:
            block.fill_with_garbage()
            block.past = []
        self._before.clear()
        if unjoined or self.broken:
            self._machine.stuck_pools.add(self._pool)
        if unjoined:
            raise RuntimeError("CUDA error: capturing stream has unjoined work")
        if self.broken:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )
        self._complete = True
        self._machine.graphs_of_pool[self._pool].append(self)
        self._machine.counts["captures"] += 1

    def keep(self, tensor: Tensor) -> None:
        """Before a captured operation touches memory from before the capture: keeps its values."""
        block = self._machine.memory.of(tensor)
        if block is not None and block.graph is not self and block not in self._before:
            with _disable_current_modes():
                there = block.bytes()
                assert there is not None
                self._before[block] = there.clone(), block.past

    def record(self, func: Any, args: Any, kwargs: Any, result: Any, written: list) -> None:
        """Records an operation. New memory of the result belongs to the graph."""

        def held(each: Any) -> Any:
            if isinstance(each, torch.Generator):
                assert any(each is known for known, _ in self._generators), "not registered"
            if not isinstance(each, Tensor):
                return each
            block = self._machine.memory.of(each)
            if block is None:  # a value on the host is a constant of the graph
                with _disable_current_modes():
                    return each.clone()
            if block.graph is self:
                return each
            writes = any(each is one for one in written)
            self._accesses[block, extent(each), writes] = str(func)
            return Outside(
                block, each.dtype, tuple(each.shape), each.stride(), int(each.storage_offset())
            )

        inputs = tree_map(held, (args, kwargs))
        kept: list[Tensor | None] = []
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                block = self._machine.memory.of(each)
                if block is None or block.graph is not self:
                    kept.append(None)
                    continue
                kept.append(each)
                if block not in self._inside:
                    self._inside.append(block)
        self._steps.append((func, *inputs, kept))

    def replay(self) -> None:
        machine = self._machine
        if not self._complete:
            raise RuntimeError("CUDAGraph::replay() without a preceding successful capture")
        stream = machine.current(self._stream.index)
        machine.refuse_in_capture("cudaGraphLaunch")
        machine.counts["graph launches"] += 1
        machine.clocks.step(stream.id)
        for (block, span, writes), what in self._accesses.items():
            if span is not None:
                machine.touch_block(block, span, stream.id, writes, f"a graph's {what}")
        later = machine.graphs_of_pool[self._pool]
        for graph in later[later.index(self) + 1 :]:
            for block in graph._inside:
                block.fill_with_garbage()
        with _disable_current_modes(), torch.no_grad():
            for func, args, kwargs, kept in self._steps:
                again = func(*tree_map(self._now, args), **tree_map(self._now, kwargs))
                new = [each for each in tree_leaves(again) if isinstance(each, Tensor)]
                for mine, value in zip(kept, new, strict=True):
                    if mine is not None and mine.data_ptr() != value.data_ptr():
                        mine.copy_(value)

    def _now(self, each: Any) -> Any:
        if not isinstance(each, Outside):
            return each
        there = each.tensor()
        if there is None:
            self._machine.found(f"a graph uses freed memory, made at {each.block.made}")
            return torch.zeros(each.size, dtype=each.dtype)
        return there

    def reset(self) -> None:
        self._steps.clear()
