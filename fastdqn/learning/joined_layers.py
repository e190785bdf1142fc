"""JoinedLayers: two layers of equal shape as one batched matrix product."""

from typing import Any

import torch
from torch import Tensor, nn

from fastdqn.learning.noisy import NoisyLinear


class JoinedLayers:
    """Two layers of equal shape, computed together from views of their own memory.

    A GPU takes as long to launch a small product as to compute it. The joined tensors are leaves of
    autograd, so that one backward product serves both layers, too.

    Args:
        pair: Two modules with weight [O, I] and bias [O], of one kind: noisy or not. Their
            parameters lie in one flat tensor, the first before the second.
    """

    def __init__(self, pair: tuple[Any, Any]):
        self._pair = pair
        names = ["weight", "bias"]
        if isinstance(pair[0], NoisyLinear):
            names += ["weight_sigma", "bias_sigma"]
        self._leaves = {name: _both(*(getattr(each, name) for each in pair)) for name in names}

    def leaves(self) -> list[tuple[Tensor, tuple[nn.Parameter, nn.Parameter]]]:
        """Returns each joined tensor [2, ...] with its two parameters."""
        first, second = self._pair
        return [
            (leaf, (getattr(first, name), getattr(second, name)))
            for name, leaf in self._leaves.items()
        ]

    def __call__(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Maps x [2, I, N] to [2, O, N]; noise is [1, D], or None for mean weights.

        The batch is last, so that the gradient of the weights has their layout.
        """
        weight, bias = self._leaves["weight"], self._leaves["bias"]
        if noise is not None and isinstance(self._pair[0], NoisyLinear):
            e, f = self._factors(noise[0])
            weight = torch.addcmul(
                weight, self._leaves["weight_sigma"], f.unsqueeze(2) * e.unsqueeze(1)
            )
            bias = torch.addcmul(bias, self._leaves["bias_sigma"], f)
        return torch.baddbmm(bias.unsqueeze(2), weight, x)

    def _factors(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the noise factors of both layers, [2, I] and [2, O], as views."""
        first, second = self._pair
        apart = second._input.start - first._input.start
        assert apart >= first.noise_size, "the second layer's noise follows the first's"
        factors = []
        for part in (first._input, first._output):
            start = int(noise.storage_offset()) + part.start
            factors.append(noise.as_strided((2, part.stop - part.start), (apart, 1), start))
        return factors[0], factors[1]


def can_join(first: nn.Module, second: nn.Module) -> bool:
    """Whether two layers have equal parameters, in one storage."""
    if type(first) is not type(second):
        return False
    given = list(zip(first.parameters(), second.parameters(), strict=True))
    return all(
        a.shape == b.shape and a.requires_grad == b.requires_grad and _storage(a) == _storage(b)
        for a, b in given
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _both(first: Tensor, second: Tensor) -> Tensor:
    """Returns a view [2, ...] of two tensors in one storage, as a leaf of autograd."""
    apart = int(second.storage_offset()) - int(first.storage_offset())
    view = first.detach().as_strided(
        (2, *first.shape), (apart, *first.stride()), int(first.storage_offset())
    )
    return view.requires_grad_(first.requires_grad)
