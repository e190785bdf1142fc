"""Operators: every torch operator on tensors of a simulated device, with the rules of CUDA."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.simulated_cuda.clocks import HOST
from helpers.simulated_cuda.machine import Machine

_aten = torch.ops.aten
# They allocate or describe memory, without a kernel.
_FREE = (
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default,
    _aten.new_empty.default, _aten.new_empty_strided.default,
)  # fmt: skip
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_WAITS = (
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.is_nonzero.default,
    _aten.equal.default, _aten.masked_select.default, _aten._unique2.default,
)  # fmt: skip


class Operators(TorchDispatchMode):
    """Computes on the CPU, and checks devices, order and captures."""

    def __init__(self, machine: Machine):
        super().__init__()
        self._machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        index = self._asked_device(kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        places = {self._machine.memory.device_of(t) for t in tensors if not self._is_number(t)}
        if index is None:
            devices = [place for place in places if place is not None]
            if not devices:
                return func(*args, **kwargs)
            if len(places) > 1 and func not in _COPIES:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found {places} in {func}"
                )
            index = devices[0]
        return self._run(func, args, kwargs, tensors, index)

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], index: int) -> Any:
        machine = self._machine
        stream, written = machine.current(index), _written(func, args, kwargs)
        capture = stream.capture
        if func in _WAITS:
            machine.synchronizes(str(func))
        if func in _COPIES and {machine.memory.device_of(each) for each in tensors} != {index}:
            self._copy(func, args, kwargs, stream)
        if capture is not None:
            for each in tensors:
                capture.keep(each)
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if not written and made and all(machine.memory.of(each) is not None for each in made):
            return result  # a view: it computes nothing, and a graph holds the view itself
        for each in made:
            machine.memory.add(each, index, capture)
        machine.clocks.step(stream.id)
        for each in tensors:
            machine.touch(each, stream.id, any(each is one for one in written), str(func))
        for each in made:
            if not any(each is one for one in tensors):
                machine.touch(each, stream.id, True, str(func))
        if capture is not None:
            capture.record(func, args, kwargs, result, written)
        elif func in _WAITS:
            machine.clocks.follow(HOST, stream.id)
        if func not in _FREE:
            machine.operators[str(func)] += 1
        return result

    def _asked_device(self, kwargs: dict[str, Any]) -> int | None:
        """Returns the CUDA device that a factory was asked for, and asks it for the CPU."""
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return None
        kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return self._machine.index_of(device)

    def _is_number(self, tensor: Tensor) -> bool:
        """A 0-d tensor of the host may meet tensors of a device."""
        return tensor.dim() == 0 and self._machine.memory.of(tensor) is None

    def _copy(self, func: Any, args: Any, kwargs: Any, stream: Any) -> None:
        """A copy between host and device."""
        machine, to, source = self._machine, args[0], args[-1 if len(args) == 1 else 1]
        up = machine.memory.device_of(source) is None
        host = source if up else to
        pinned = machine.memory.is_pinned(host)
        asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        name = f"{'to' if up else 'from'} {'pinned' if pinned else 'pageable'} memory"
        if stream.capture is not None and not pinned:
            machine.refuse_in_capture(f"copy {name}")
        if not (asynchronous and (pinned or up)):
            machine.synchronizes(f"copy {name}")
            machine.clocks.follow(HOST, stream.id)
        machine.counts[f"bytes {name}"] += host.nbytes


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Returns the tensors that an operator writes in place."""
    found: list[Tensor] = []
    for i, each in enumerate(func._schema.arguments):
        if each.alias_info is not None and each.alias_info.is_write:
            by_position = i < len(args) and not each.kwarg_only
            value = args[i] if by_position else kwargs.get(each.name)
            values = value if isinstance(value, list | tuple) else [value]
            found += [one for one in values if isinstance(one, Tensor)]
    return found
