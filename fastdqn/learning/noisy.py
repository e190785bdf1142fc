"""NoisyLinear: a linear layer with learned noise on its weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Module):
    """y = (W + S * (f ⊗ e)) x + b + s * f, with given noise factors e [fan_in] and f [fan_out].

    If each row of a batch has its own factors, it computes W x + f * (S (e * x)) + ... without
    forming a matrix. If all rows share them, forming the matrix saves a product.

    Source: Fortunato et al. 2018 (arXiv 1706.10295), equations 9 to 11, section 3.2.

    Args:
        fan_in: Input size.
        fan_out: Output size.
        sigma: Initial standard deviation; sigma / sqrt(fan_in) for each parameter.
        start: Offset of this layer's factors in the noise of a pass, e first, then f.
    """

    def __init__(self, fan_in: int, fan_out: int, sigma: float, start: int):
        super().__init__()
        bound = 1.0 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((fan_out, fan_in), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((fan_out,), sigma * bound))
        self._input = slice(start, start + fan_in)
        self._output = slice(start + fan_in, start + fan_in + fan_out)
        self.noise_size = fan_in + fan_out

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Maps x [B, *, fan_in] to [B, *, fan_out]; noise is [1 or B, D], or None for the mean."""
        if noise is None:
            return functional.linear(x, self.weight, self.bias)
        if len(noise) == 1:
            e, f = noise[0, self._input], noise[0, self._output]
            weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(f, e))
            return functional.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, f))
        shape = (len(noise), *(1,) * (x.ndim - 2), -1)
        e, f = noise[:, self._input].reshape(shape), noise[:, self._output].reshape(shape)
        mean = functional.linear(x, self.weight, self.bias)
        return torch.addcmul(mean, f, functional.linear(x * e, self.weight_sigma, self.bias_sigma))


class NoisyLayers:
    """Creates noisy layers, each with its own part of the noise of a pass."""

    def __init__(self, sigma: float):
        self._sigma = sigma
        self._size = 0

    def __call__(self, fan_in: int, fan_out: int) -> NoisyLinear:
        layer = NoisyLinear(fan_in, fan_out, self._sigma, self._size)
        self._size += layer.noise_size
        return layer


def noise_size(network: nn.Module) -> int:
    """Returns D, the number of noise factors of a network."""
    return sum(each.noise_size for each in network.modules() if isinstance(each, NoisyLinear))
