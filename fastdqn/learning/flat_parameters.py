"""FlatParameters: all weights of a module in one tensor; its parameters are views of it."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fastdqn.learning.networks import QNetwork, StreamsHead

# Offsets are multiples of 16 float32, so every view starts on its own cache line.
_ALIGN = 16


class FlatParameters:
    """Moves a module's parameters and buffers to flat float32 tensors on one device.

    A target update, a snapshot and a checkpoint are one copy_ each, and the optimizer and gradient
    clipping process one tensor.

    Attributes:
        weights: float32[P], all parameters.
        gradient: float32[P], zeros until take_gradient().
        buffers: float32[Q], all buffers.
        module: The module, whose parameters and buffers are views of these tensors.

    Raises:
        ValueError: A parameter or buffer is not float32.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.module = module.to(device)
        self._parameters = dict(module.named_parameters())
        self._buffers = dict(module.named_buffers())
        for name, value in {**self._parameters, **self._buffers}.items():
            if value.dtype != torch.float32:
                raise ValueError(f"{name} is {value.dtype}, but the network must be float32")
        self.weights = _pack(self._parameters, device)
        self.gradient = torch.zeros_like(self.weights)
        self._zero = torch.zeros(1, device=device)
        self.buffers = _pack(self._buffers, device)
        for value, view in _with_views(self._parameters, self.weights):
            value.data = view
        for value, view in _with_views(self._parameters, self.gradient):
            value.grad = view
        for value, view in _with_views(self._buffers, self.buffers):
            value.data = view
        join_layers(self.module)
        if self.weights.is_cuda and isinstance(self.module, QNetwork):
            self.module.cast_once()
        self._leaves, self._sources = self._gradient_sources()

    def frozen_twin(self) -> "FlatParameters":
        """Returns a copy with its own memory, in eval mode without gradients: a target network."""
        module = copy.deepcopy(self.module).eval().requires_grad_(False)
        return FlatParameters(module, self.weights.device)

    def frozen_alias(self) -> "FlatParameters":
        """Returns the same weights in eval mode without gradients, for use without a target."""
        alias = copy.copy(self)
        alias.module = self.eval_alias()
        return alias

    def eval_alias(self) -> nn.Module:
        """Returns a second module over the same memory in eval mode, for the policy."""
        alias = copy.deepcopy(self.module)
        for (_, value), source in zip(
            alias.named_parameters(), self._parameters.values(), strict=True
        ):
            value.data = source.data
        for (_, value), source in zip(alias.named_buffers(), self._buffers.values(), strict=True):
            value.data = source.data
        join_layers(alias.eval().requires_grad_(False))
        return alias

    def copy_from(self, other: "FlatParameters") -> None:
        self.weights.copy_(other.weights)
        self.buffers.copy_(other.buffers)

    def take_gradient(self, loss: Tensor, factor: Tensor) -> None:
        """Writes the gradient of factor * loss; 0 for weights that it does not depend on.

        backward() would add each parameter's gradient to zeros by a kernel of its own.
        """
        found = self._gradients(loss, factor)
        pieces: dict[torch.dtype, list[Tensor]] = {}  # of the parameters in their order
        ends: dict[torch.dtype, int] = {}
        for parameter, (leaf, part) in zip(self._parameters.values(), self._sources, strict=True):
            given, size, dtype = found[leaf], parameter.numel(), self._leaves[leaf].dtype
            own = pieces.setdefault(dtype, [])
            if given is None:
                own.append(self._zero.to(dtype).expand(size))
            else:
                own.append((given if part is None else given[part]).reshape(-1))
            if padding := _padded(parameter) - size:
                own.append(self._zero.to(dtype).expand(padding))
            ends[dtype] = ends.get(dtype, 0) + _padded(parameter)
        start = 0
        for dtype, own in pieces.items():
            to = self.gradient[start : start + ends[dtype]]
            start += ends[dtype]
            if dtype == to.dtype:
                torch.cat(own, out=to)
            else:  # one kernel each, where a mixture of dtypes would take one for each piece
                to.copy_(torch.cat(own))

    def _gradient_sources(self) -> tuple[list[Tensor], list[tuple[int, int | None]]]:
        """Returns the leaves of autograd, and of each parameter its leaf and its part of it."""
        leaves, sources = [], {}
        cast = self.module.cast if isinstance(self.module, QNetwork) else None
        for parameter, copied in [] if cast is None else cast.pairs():
            sources[id(parameter)] = len(leaves), None
            leaves.append(copied)
        for head in _joinable(self.module):
            for leaf, pair in (each for layer in head.joined for each in layer.leaves()):
                sources |= {id(pair[part]): (len(leaves), part) for part in range(2)}
                leaves.append(leaf)
        for parameter in self._parameters.values():
            if id(parameter) not in sources:
                sources[id(parameter)] = len(leaves), None
                leaves.append(parameter)
        return leaves, [sources[id(parameter)] for parameter in self._parameters.values()]

    def _gradients(self, loss: Tensor, factor: Tensor) -> list[Tensor | None]:
        """Returns the gradient of each leaf; None where it does not depend on it or is frozen."""
        asked = [leaf for leaf in self._leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(loss, asked, factor, allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in self._leaves]

    def check_views(self) -> None:
        """Asserts that parameters and gradients are still views; a load or cast may break them."""
        start = self.weights.untyped_storage().data_ptr()
        for name, value in self._buffers.items():
            home = self.buffers.untyped_storage().data_ptr()
            assert value.untyped_storage().data_ptr() == home, f"{name} left the flat tensor"
        for name, value in self._parameters.items():
            assert value.untyped_storage().data_ptr() == start, f"{name} left the flat tensor"
            grad = value.grad
            if value.requires_grad:
                assert grad is not None, f"the gradient of {name} is gone"
                assert (
                    grad.untyped_storage().data_ptr() == self.gradient.untyped_storage().data_ptr()
                ), f"the gradient of {name} left the flat tensor"

    def named_tensors(self) -> dict[str, Tensor]:
        """Returns the current parameters and persistent buffers, by name, as views."""
        return {name: value.detach() for name, value in self.module.state_dict().items()}


def join_layers(module: nn.Module) -> None:
    """Lets heads compute layers of equal shape together, in the memory that they have now."""
    for head in _joinable(module):
        head.join_streams()


def _joinable(module: nn.Module) -> list[StreamsHead]:
    return [each for each in module.modules() if isinstance(each, StreamsHead)]


def _with_views(tensors: Mapping[str, Tensor], flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each tensor with its part of flat, in the tensor's shape."""
    start = 0
    for tensor in tensors.values():
        yield tensor, flat[start : start + tensor.numel()].view(tensor.shape)
        start += _padded(tensor)


def _pack(tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
    flat = torch.zeros(sum(map(_padded, tensors.values())), device=device)
    for tensor, view in _with_views(tensors, flat):
        view.copy_(tensor.detach())
    return flat


def _padded(tensor: Tensor) -> int:
    return -(-tensor.numel() // _ALIGN) * _ALIGN
