"""NoisyLinear: a linear layer whose weights have a learned deviation around their mean."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Module):
    """y = (W + S * (f ⊗ e)) x + b + s * f, with the factors e [fan_in] and f [fan_out] given.

    start  where this layer's factors begin in the noise of a pass; e first, then f
    sigma  initial deviation: sigma / sqrt(fan_in) for each number

    Where each row of a batch has factors of its own, it is W x + f * (S (e * x)) + ..., and no
    matrix is formed; where all share them, forming it saves a product.
    Fortunato et al. 2018 (arXiv 1706.10295), equations 9 to 11, section 3.2.
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
        """x [B, *, fan_in], noise [1 or B, D] or None, to [B, *, fan_out]."""
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
    """Makes noisy layers, each with a place of its own in the noise of a pass."""

    def __init__(self, sigma: float):
        self._sigma = sigma
        self._size = 0

    def __call__(self, fan_in: int, fan_out: int) -> NoisyLinear:
        layer = NoisyLinear(fan_in, fan_out, self._sigma, self._size)
        self._size += layer.noise_size
        return layer


def noise_size(network: nn.Module) -> int:
    """Numbers D that the noisy layers of a network take in a pass."""
    return sum(each.noise_size for each in network.modules() if isinstance(each, NoisyLinear))
