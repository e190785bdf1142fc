"""Patches: torch reports the simulated devices, and moves tensors between them and the host."""

import contextlib
import types
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from helpers.simulated_cuda.clocks import HOST
from helpers.simulated_cuda.graphs import Graph
from helpers.simulated_cuda.machine import Machine
from helpers.simulated_cuda.operators import Operators
from helpers.simulated_cuda.streams import Event, Stream

_GIB = 1 << 30
_parse_to: Any = torch._C._nn._parse_to  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def simulated_cuda() -> Iterator[Machine]:
    """Within, torch.cuda has two simulated devices. Yields their state."""
    machine = Machine()
    machine.make_stream = lambda device: Stream(machine, device)
    with pytest.MonkeyPatch.context() as patch:
        _patch_tensors(patch, machine)
        _patch_cuda(patch, machine)
        with Operators(machine):
            yield machine


def _patch_tensors(patch: pytest.MonkeyPatch, machine: Machine) -> None:
    real = {name: getattr(Tensor, name) for name in ("to", "device", "numpy", "__array__")}

    def device(tensor: Tensor) -> torch.device:
        index = machine.memory.device_of(tensor)
        return real["device"].__get__(tensor) if index is None else torch.device("cuda", index)

    def on_host(name: str) -> Any:
        def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if machine.memory.device_of(tensor) is not None:
                raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
            if machine.memory.is_pinned(tensor):
                machine.host_touches(tensor, "an access by NumPy")
            return real[name](tensor, *args, **kwargs)

        return method

    def pin_memory(tensor: Tensor, device: Any = None) -> Tensor:
        machine.refuse_in_capture("cudaHostAlloc")
        return _registered(machine, tensor, None)

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        target, dtype, non_blocking, layout = _parse_to(*args, **kwargs)
        if args and isinstance(args[0], Tensor):
            target = args[0].device
        changed = {"memory_format": layout} if layout is not None else {}
        if dtype is not None or changed or copy:
            tensor = real["to"](tensor, dtype or tensor.dtype, copy=copy, **changed)
        return tensor if target is None else _moved(machine, tensor, target, non_blocking)

    def made_on_host(function: Any) -> Any:
        """Operators within torch.tensor() are not dispatched."""

        def make(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            made = function(data, *args, **kwargs)
            return made if device is None else to(made, device)

        return make

    for name in ("tensor", "as_tensor"):
        patch.setattr(torch, name, made_on_host(getattr(torch, name)))
    patch.setattr(Tensor, "device", property(device), raising=False)
    patch.setattr(
        Tensor, "is_cuda", property(lambda t: machine.memory.device_of(t) is not None),
        raising=False,
    )  # fmt: skip
    for name in ("numpy", "__array__"):
        patch.setattr(Tensor, name, on_host(name), raising=False)
    patch.setattr(Tensor, "pin_memory", pin_memory, raising=False)
    patch.setattr(Tensor, "is_pinned", lambda t: machine.memory.is_pinned(t), raising=False)
    patch.setattr(Tensor, "to", to, raising=False)
    patch.setattr(Tensor, "cpu", lambda t: to(t, "cpu"), raising=False)
    patch.setattr(Tensor, "cuda", lambda t, device="cuda": to(t, device), raising=False)


def _moved(machine: Machine, tensor: Tensor, target: Any, non_blocking: bool) -> Tensor:
    here, target = machine.memory.device_of(tensor), torch.device(target)
    there = machine.index_of(target) if target.type == "cuda" else None
    if here == there:
        return tensor
    stream = machine.current(here if there is None else there)
    pinned = machine.memory.is_pinned(tensor)
    if stream.capture is not None and not pinned:
        machine.refuse_in_capture("copy from or to pageable memory")
    if there is None or not non_blocking:
        machine.synchronizes("copy by to()")
        machine.clocks.follow(HOST, stream.id)
    machine.clocks.step(stream.id)
    machine.touch(tensor, stream.id, False, "a copy by to()")
    with _disable_current_modes():
        moved = tensor.clone()
    if there is not None:
        machine.memory.add(moved, there, stream.capture)
        machine.touch(moved, stream.id, True, "a copy by to()")
    else:
        machine.clocks.follow(HOST, stream.id)
    return moved


def _registered(machine: Machine, tensor: Tensor, index: int | None) -> Tensor:
    with _disable_current_modes():
        made = tensor.clone()
    machine.memory.add(made, index)
    return made


def _patch_cuda(patch: pytest.MonkeyPatch, machine: Machine) -> None:
    def set_sync_debug_mode(mode: Any) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        machine.waits_are_errors = mode in ("error", 2)

    def current_stream(device: Any = None) -> Stream:
        return machine.current(machine.index_of(device))

    def properties(device: Any = None) -> Any:
        return types.SimpleNamespace(
            name="simulated", total_memory=140 * _GIB, major=9, minor=0, multi_processor_count=132
        )

    def memory_stats(device: Any = None) -> dict[str, int]:
        live = len(machine.memory.live(machine.index_of(device)))
        return defaultdict(int, {"allocation.all.current": live})

    def used(device: Any = None) -> int:
        return machine.memory.used(machine.index_of(device))

    pools = iter(range(1, 1 << 30))
    replacements = {
        "is_available": lambda: True,
        "device_count": lambda: Machine.NUM_DEVICES,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "manual_seed_all": lambda seed: None,
        "current_device": lambda: machine.device,
        "set_device": lambda device: setattr(machine, "device", machine.index_of(device)),
        "Stream": lambda device=None, priority=0: Stream(machine, device),
        "Event": lambda **options: Event(machine, **options),
        "stream": lambda stream: _on_stream(machine, stream),
        "device": lambda device: _on_device(machine, device),
        "current_stream": current_stream,
        "CUDAGraph": lambda **options: Graph(machine),
        "graph": lambda *args, **kwargs: _capturing(machine, *args, **kwargs),
        "graph_pool_handle": lambda: (0, next(pools)),
        "is_current_stream_capturing": lambda: machine.current().capture is not None,
        "synchronize": lambda device=None: machine.synchronize(),
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (139 * _GIB, 140 * _GIB),
        "get_device_name": lambda device=None: "simulated",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": properties,
        "memory_stats": memory_stats,
        "memory_allocated": used,
        "max_memory_allocated": used,
        "reset_peak_memory_stats": lambda device=None: None,
        "set_sync_debug_mode": set_sync_debug_mode,
        "nvtx": types.SimpleNamespace(range=lambda *args, **kwargs: contextlib.nullcontext()),
    }
    for name, replacement in replacements.items():
        patch.setattr(torch.cuda, name, replacement)
    real_generator, real_autocast = torch.Generator, torch.autocast

    class _Generator(real_generator):
        def __new__(cls, device: Any = "cpu") -> Any:
            return real_generator()

    class _Autocast(real_autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any):
            super().__init__("cpu", *args, **kwargs)

    patch.setattr(torch, "Generator", _Generator)
    patch.setattr(torch, "autocast", _Autocast)


@contextlib.contextmanager
def _on_stream(machine: Machine, stream: Stream) -> Iterator[None]:
    device, before = machine.device, machine.current(stream.index)
    machine.device = stream.index
    machine.choose(stream)
    try:
        yield
    finally:
        machine.choose(before)
        machine.device = device


@contextlib.contextmanager
def _on_device(machine: Machine, device: Any) -> Iterator[None]:
    before, machine.device = machine.device, machine.index_of(device)
    try:
        yield
    finally:
        machine.device = before


@contextlib.contextmanager
def _capturing(
    machine: Machine, graph: Graph, pool: Any = None, stream: Any = None,
    capture_error_mode: str = "global",
) -> Iterator[None]:  # fmt: skip
    machine.synchronize()
    stream = stream or Stream(machine)
    with _on_stream(machine, stream):
        graph.begin(stream, pool, capture_error_mode)
        try:
            yield
        finally:
            graph.end()  # as CUDA, an error here replaces that of the capture
