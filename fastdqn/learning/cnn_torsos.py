"""Convolutional torsos for image observations, as published."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(NamedTuple):
    """A square convolution without padding: output channels, kernel size and stride."""

    channels: int
    kernel: int
    stride: int

    def side(self, length: int) -> int:
        """Returns the output size for an input of this size."""
        return (length - self.kernel) // self.stride + 1


# Mnih et al. 2015 (Nature 518), Methods, "Model architecture".
NATURE = (Layer(32, 8, 4), Layer(64, 4, 2), Layer(64, 3, 1))
# van Hasselt et al. 2019 (arXiv 1906.05243), appendix. With 256 hidden units it needs a sixth of
# the multiplications of NATURE and an eighth of the weights.
DATA_EFFICIENT = (Layer(32, 5, 5), Layer(64, 5, 5))
# Young and Tian 2019 (arXiv 1903.03176), section 3.
MINATAR = (Layer(16, 3, 1),)


class Counted(NamedTuple):
    """Sizes of one layer: output positions, inputs and outputs of each position."""

    positions: int
    fan_in: int
    fan_out: int


def count_layers(
    layers: tuple[Layer, ...], height: int, width: int, channels: int
) -> list[Counted]:
    """Returns the sizes of all layers; raises ValueError if the images are too small."""
    counted = []
    smallest = 1
    for layer in reversed(layers):
        smallest = (smallest - 1) * layer.stride + layer.kernel
    if min(height, width) < smallest:
        raise ValueError(f"images of {height} x {width}, at least {smallest} x {smallest} needed")
    for layer in layers:
        height, width = layer.side(height), layer.side(width)
        fan_in = channels * layer.kernel**2
        counted.append(Counted(height * width, fan_in, layer.channels))
        channels = layer.channels
    return counted


class Convolution(nn.Module):
    """Convolution from [B, I, H, W] to [B, O, H', W'], channels last in memory.

    Both parameters are initialized uniformly within 1 / sqrt(fan_in), as in torch and in the Lua
    Torch of the DQN authors.

    Attributes:
        weight: [O, kernel, kernel, I], so that a view of the flat weights is channels-last.
        bias: [O].
    """

    def __init__(self, channels: int, layer: Layer):
        super().__init__()
        bound = 1.0 / math.sqrt(channels * layer.kernel**2)
        shape = (layer.channels, layer.kernel, layer.kernel, channels)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(layer.channels).uniform_(-bound, bound))
        self._stride = layer.stride

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.permute(0, 3, 1, 2)
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # On the CPU, channels last is twice as fast with a gradient, channels first without.
            weight = weight.contiguous()
        return functional.conv2d(x, weight, self.bias, self._stride)


class PictureCNN(nn.Module):
    """CNN from images [B, K, H, W] to features [B, F] in the order H', W', channels.

    The order differs from the published one by a permutation, which does not change the
    distribution of initial weights. The fully connected layer belongs to the head.

    Args:
        obs_shape: (K, H, W).
        layers: NATURE or DATA_EFFICIENT.
    """

    def __init__(self, obs_shape: tuple[int, ...], layers: tuple[Layer, ...]):
        super().__init__()
        channels, height, width = obs_shape
        last = count_layers(layers, height, width, channels)[-1]
        self.num_features = last.positions * last.fan_out
        inputs = (channels, *(layer.channels for layer in layers))
        self.layers = nn.ModuleList(map(Convolution, inputs, layers))

    def forward(self, obs: Tensor) -> Tensor:
        x = obs
        for layer in self.layers:
            x = functional.relu_(layer(x))
        return x.permute(0, 2, 3, 1).flatten(1)


class MinAtarCNN(nn.Module):
    """CNN from MinAtar observations [B, H, W, C] to features [B, F] in the order H', W', channels.

    The convolution is one matrix product of all patches, the fastest form at this size. Each row of
    the matrix is a kernel in the order row, column, channel. The fully connected layer of 128 units
    belongs to the head. Both are initialized by torch's defaults, as published.

    Source: Young and Tian 2019 (arXiv 1903.03176).

    Attributes:
        obs_shape: (H, W, C).
        kernels: The convolution, from a patch to its channels.
    """

    def __init__(self, obs_shape: tuple[int, ...]):
        super().__init__()
        self.obs_shape = height, width, channels = obs_shape
        ((positions, fan_in, fan_out),) = count_layers(MINATAR, height, width, channels)
        self.num_features = positions * fan_out
        self.kernels = nn.Linear(fan_in, fan_out)

    def forward(self, obs: Tensor) -> Tensor:
        # A patch is 3 rows of 3 adjacent positions, which are contiguous in memory.
        (layer,), channels = MINATAR, self.obs_shape[2]
        rows = obs.flatten(2).unfold(2, layer.kernel * channels, layer.stride * channels)
        patches = rows.unfold(1, layer.kernel, layer.stride).transpose(-1, -2)
        x = functional.relu_(self.kernels(patches.flatten(-2)))  # [B, H', W', 16]
        return x.flatten(1)
