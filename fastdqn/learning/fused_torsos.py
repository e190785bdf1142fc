"""Torsos of the fused learner, which write features for a head to read: MLPs and MinAtarCNN."""

from typing import Any, Protocol

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import (
    COLUMNS,
    LANES,
    product_added,
    product_from_bias,
    transpose_tile,
)
from fastdqn.kernels.vectors import load, store
from fastdqn.learning import fused_kernel
from fastdqn.learning.cnn_torsos import MINATAR, MinAtarCNN
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_kernel import (
    BIAS,
    BLOCK,
    IN,
    OUTPUT,
    WEIGHTS,
    load_block,
    through_layers,
)
from fastdqn.learning.fused_learner import end_of, layer_table, size_of
from fastdqn.learning.fused_mlp import Layers

_ZERO = np.float32(0.0)
_SIDE = MINATAR[0].kernel


class Torso(Protocol):
    """The part of a network before its head, forward and backward, for blocks of samples.

    Attributes:
        layers: int64[L, 8], its layers, see fused_kernel.py.
        at_features: Where the features begin in the activations of a block.
        width: Size of the activations of a block.
    """

    layers: np.ndarray
    at_features: int
    width: int

    def forward(self, weights, obs, scale, x) -> None:
        """Writes activations and features of observations [B, F] to x, float32[blocks, *]."""
        ...

    def backward(self, weights, x, transposed, last, gradient) -> None:
        """Writes the gradient of all layers' weights and biases to gradient [P].

        Args:
            weights: float32[P], flat.
            x: float32[blocks, *], activations of the last pass. In place of the features, the
                gradient before their ReLU.
            transposed, last: Scratch memory, see fused_kernel.weight_gradient().
            gradient: float32[P], output.
        """
        ...


def make_torso(online: FlatParameters, layers: Layers) -> Torso:
    """Returns the torso of a network with these layers."""
    torso: Any = online.module.torso
    if type(torso) is MinAtarCNN:
        return MinAtarTorso(online, torso)
    first = [*layers.torso, layers.chains[0][0]][0]
    return MLPTorso(online, layers.torso, first.weight.shape[1])


class MLPTorso:
    """Torso with dense layers, or none: then observations are the features.

    Args:
        online: The online network.
        dense: The layers.
        num_inputs: Number of features of an observation.
    """

    def __init__(self, online: FlatParameters, dense: list[Any], num_inputs: int):
        self.layers = layer_table(dense, online, ends_in_relu=True)
        self.at_features = int(self.layers[-1, OUTPUT]) if dense else 0
        self.width = end_of(self.layers) if dense else size_of(num_inputs)

    def forward(self, weights, obs, scale, x) -> None:
        forward_mlp(self.layers, weights, obs, scale, x)

    def backward(self, weights, x, transposed, last, gradient) -> None:
        fused_kernel.backpropagate(self.layers, weights, x, transposed, last, gradient)


@ieee_kernel
def forward_mlp(layers, weights, obs, scale, x):
    """Writes observations [B, F] and the activations of all layers to x, float32[blocks, *]."""
    for block in range(len(x)):
        first = block * BLOCK
        load_block(obs, first, min(BLOCK, len(obs) - first), scale, x[block])
        through_layers(layers, weights, x[block])


class MinAtarTorso:
    """MinAtarCNN in the fused learner.

    Args:
        online: The online network.
        torso: Its torso.
    """

    def __init__(self, online: FlatParameters, torso: MinAtarCNN):
        self.layers = layer_table([torso.kernels], online, ends_in_relu=True)
        self._shape, self._channels = torso.obs_shape, torso.kernels.out_features
        self.at_features = size_of(int(np.prod(torso.obs_shape)))
        self.width = self.at_features + size_of(torso.num_features)
        fan_in = torso.kernels.in_features
        self._patch = np.zeros((fan_in + 1) * BLOCK, np.float32)
        self._patch[fan_in * BLOCK :] = 1.0
        self._stride = max(torso.num_features, self.at_features // BLOCK) + LANES
        self._turned = np.zeros(BLOCK * self._stride, np.float32)
        self._sums = np.zeros((fan_in + 1) * COLUMNS, np.float32)

    def forward(self, weights, obs, scale, x) -> None:
        convolve(
            self.layers[0], weights, obs, scale, x, self._shape, self._channels, self.at_features,
            self._patch, self._turned, self._stride,
        )  # fmt: skip

    def backward(self, weights, x, transposed, last, gradient) -> None:
        backward_convolution(
            self.layers[0], x, self._shape, self._channels, self.at_features, self._patch,
            self._turned, self._stride, self._sums, gradient,
        )  # fmt: skip


@ieee_kernel
def convolve(
    layer, weights, obs, scale, x, shape, channels, at_features, patch, transposed, stride
):  # fmt: skip
    """Writes observations and features, in the order row, column, channel.

    Args:
        layer: int64[8], see fused_kernel.py; its input is a patch.
        weights: float32[P], flat.
        obs: [B, H * W * C].
        scale: Factor of observations.
        x: float32[blocks, *], output.
        shape: (H, W, C).
        channels: Number of features of a position.
        at_features: Where the features begin in a row of x.
        patch: float32[(9 C + 1) * BLOCK], scratch memory that ends in ones.
        transposed: float32[BLOCK * stride], scratch memory.
        stride: Length of its rows.
    """
    height, width, _ = shape
    features = layer[IN]
    for block in range(len(x)):
        load_rows(obs, block * BLOCK, scale, transposed, stride, x[block])
        to = at_features
        for i in range(height - _SIDE + 1):
            for j in range(width - _SIDE + 1):
                cut_patch(x[block], shape, i, j, patch)
                product_from_bias(
                    x[block], to, BLOCK, weights, layer[WEIGHTS], features, 1,
                    patch, 0, BLOCK, channels, features, weights, layer[BIAS], _ZERO,
                )  # fmt: skip
                to += channels * BLOCK


@ieee_kernel
def load_rows(obs, first, scale, transposed, stride, x):
    """As load_block(), in vectors, for observations of many numbers; x has whole tiles of rows."""
    features = obs.shape[1]
    for s in range(BLOCK):
        to = transposed[s * stride : s * stride + features]
        if first + s >= len(obs):
            to[:] = _ZERO
            continue
        row = obs[first + s]
        for i in range(features):
            to[i] = np.float32(row[i]) * scale
    for i in range(0, features, LANES):
        for s in range(0, BLOCK, LANES):
            transpose_tile(x, i * BLOCK + s, BLOCK, transposed, s * stride + i, stride)


@ieee_kernel
def cut_patch(x, shape, i, j, patch):
    """Copies the patch at row i and column j, in the order row, column, channel."""
    _, width, channels = shape
    run = _SIDE * channels * BLOCK
    for row in range(_SIDE):
        begin = ((i + row) * width + j) * channels * BLOCK
        for at in range(0, run, LANES):
            store(patch, row * run + at, load(x, begin + at))


@ieee_kernel
def backward_convolution(
    layer, x, shape, channels, at_features, patch, transposed, stride, sums, gradient
):  # fmt: skip
    """Writes the gradient of weights and biases of a convolution.

    Args not listed are those of convolve().

    Args:
        x: float32[blocks, *], observations, and in place of the features their gradients.
        sums: float32[(9 C + 1) * COLUMNS], scratch memory.
        gradient: float32[P], output.
    """
    height, width, _ = shape
    features, positions = layer[IN], (height - _SIDE + 1) * (width - _SIDE + 1)
    sums[:] = _ZERO
    for block in range(len(x)):
        for i in range(0, positions * channels, LANES):
            for s in range(0, BLOCK, LANES):
                transpose_tile(
                    transposed, s * stride + i, stride, x[block], at_features + i * BLOCK + s, BLOCK
                )
        at = 0
        for i in range(height - _SIDE + 1):
            for j in range(width - _SIDE + 1):
                cut_patch(x[block], shape, i, j, patch)
                # Columns beyond the channels are those of another position, and not used.
                product_added(
                    sums, 0, COLUMNS, patch, 0, BLOCK, 1, transposed, at, stride,
                    features + 1, BLOCK, sums, 0, _ZERO,
                )  # fmt: skip
                at += channels
    for o in range(channels):
        for i in range(features):
            gradient[layer[WEIGHTS] + o * features + i] = sums[i * COLUMNS + o]
        gradient[layer[BIAS] + o] = sums[features * COLUMNS + o]
