"""Residual torso of IMPALA, as a custom torso for GPU benchmarks."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Espeholt et al. 2018 (arXiv 1802.01561), figure 3, right: channels of three sections.
_CHANNELS = (16, 32, 32)
_UNITS = 512  # units of the last layer: 256 in the paper, doubled as the channels are


class _Convolution(nn.Module):
    """3 x 3 convolution with zero padding. Its weight [O, 3, 3, I] is in channels-last order."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        bound = 1.0 / math.sqrt(9 * channels_in)
        self.weight = nn.Parameter(
            torch.empty(channels_out, 3, 3, channels_in).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(channels_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.permute(0, 3, 1, 2), self.bias, padding=1)


class _Section(nn.Module):
    """A convolution, max pooling with stride 2, and two residual blocks."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.first = _Convolution(channels_in, channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                _Convolution(channels, channels),
                nn.ReLU(),
                _Convolution(channels, channels),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.first(x), 3, stride=2, padding=1)
        for block in self.blocks:
            x = x + block(x)
        return x


class Impala(nn.Module):
    """Maps observations [B, K, 84, 84] to features [B, 512]. width multiplies the channels."""

    def __init__(self, stack: int = 4, width: int = 2):
        super().__init__()
        channels = (stack, *(width * each for each in _CHANNELS))
        self.sections = nn.Sequential(*map(_Section, channels, channels[1:]))
        self.last = nn.Linear(channels[-1] * 11 * 11, _UNITS)

    def forward(self, obs: Tensor) -> Tensor:
        x = functional.relu(self.sections(obs.contiguous(memory_format=torch.channels_last)))
        return functional.relu(self.last(x.flatten(1)))
