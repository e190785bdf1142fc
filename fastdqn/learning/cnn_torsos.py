"""Convolutions: the torsos that look at pictures, as their authors published them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(NamedTuple):
    """A square convolution without padding: channels out, side of the kernel, stride."""

    channels: int
    kernel: int
    stride: int

    def side(self, length: int) -> int:
        """Positions along one side of a picture of that length."""
        return (length - self.kernel) // self.stride + 1


# Mnih et al. 2015 (Nature 518), Methods, "Model architecture".
NATURE = (Layer(32, 8, 4), Layer(64, 4, 2), Layer(64, 3, 1))
# van Hasselt et al. 2019 (arXiv 1906.05243), appendix: with 256 units behind them a sixth of the
# products of Nature's network, and an eighth of its weights.
DATA_EFFICIENT = (Layer(32, 5, 5), Layer(64, 5, 5))
# Young and Tian 2019 (arXiv 1903.03176), section 3.
MINATAR = (Layer(16, 3, 1),)


class Counted(NamedTuple):
    """Of one layer over one picture: positions, and numbers in and out at each of them."""

    positions: int
    fan_in: int
    fan_out: int


def count_layers(
    layers: tuple[Layer, ...], height: int, width: int, channels: int
) -> list[Counted]:
    """What layers make of pictures of that size. Raises ValueError where one is too small."""
    counted = []
    smallest = 1
    for layer in reversed(layers):
        smallest = (smallest - 1) * layer.stride + layer.kernel
    if min(height, width) < smallest:
        raise ValueError(f"pictures of {height} x {width}, at least {smallest} x {smallest} needed")
    for layer in layers:
        height, width = layer.side(height), layer.side(width)
        fan_in = channels * layer.kernel**2
        counted.append(Counted(height * width, fan_in, layer.channels))
        channels = layer.channels
    return counted


class Convolution(nn.Module):
    """x [B, I, H, W] to [B, O, H', W'], with the channels last in memory.

    weight  [O, kernel, kernel, I]: in this order a plain view of the flat weights is what the
            channels-last convolution reads; bias  [O]
    Both start uniform within 1 / sqrt(fan_in), as in the DQN authors' Lua Torch, and in torch.
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
            # Channels last is twice as fast through the gradient, channels first without one.
            weight = weight.contiguous()
        return functional.conv2d(x, weight, self.bias, self._stride)


class PictureCNN(nn.Module):
    """obs [B, K, H, W], channels first, to features [B, F] in the order H', W', channels.

    layers  NATURE or DATA_EFFICIENT; the fully connected layer behind them is the head's
    The order of features is a permutation of the published one, under weights drawn alike.
    """

    def __init__(self, obs_shape: tuple[int, ...], layers: tuple[Layer, ...]):
        super().__init__()
        channels, height, width = obs_shape
        count_layers(layers, height, width, channels)
        inputs = (channels, *(layer.channels for layer in layers))
        self.layers = nn.ModuleList(map(Convolution, inputs, layers))

    def forward(self, obs: Tensor) -> Tensor:
        x = obs
        for layer in self.layers:
            x = functional.relu_(layer(x))
        return x.permute(0, 2, 3, 1).flatten(1)


class MinAtarCNN(nn.Module):
    """obs [B, H, W, C], channels last, to features [B, F] in the order H', W', channels.

    The convolution is a product of all its patches with one matrix, whose rows are kernels in the
    order row, column, channel: so small, that is what costs least. Young and Tian 2019 (arXiv
    1903.03176); its layer of 128 units is the head's. Both start as torch's own do, as theirs did.
    """

    def __init__(self, obs_shape: tuple[int, ...]):
        super().__init__()
        height, width, self._channels = obs_shape
        ((_, fan_in, fan_out),) = count_layers(MINATAR, height, width, self._channels)
        self.kernels = nn.Linear(fan_in, fan_out)

    def forward(self, obs: Tensor) -> Tensor:
        # A patch is 3 rows of 3 neighbours, whose numbers lie side by side.
        (layer,), channels = MINATAR, self._channels
        rows = obs.flatten(2).unfold(2, layer.kernel * channels, layer.stride * channels)
        patches = rows.unfold(1, layer.kernel, layer.stride).transpose(-1, -2)
        x = functional.relu_(self.kernels(patches.flatten(-2)))  # [B, H', W', 16]
        return x.flatten(1)
