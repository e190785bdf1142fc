"""Implicit quantiles (IQN) in the fused learner: passes, targets, loss and gradient, as kernels.

Each fraction of a block of samples is a block of its own for the embedding and the head. Outputs of
a block of samples are [M, D + A, BLOCK], as those of M quantiles at fixed fractions.
"""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vector_math import cos32
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_heads import head_table
from fastdqn.learning.fused_kernel import BLOCK, IN, OUT, OUTPUT, backpropagate, through_layers
from fastdqn.learning.fused_learner import aligned, end_of, gradient_scratch, layer_table
from fastdqn.learning.fused_mlp import NO_ROWS, Layers, noise_scratch, noise_table
from fastdqn.learning.fused_passes import (
    backward_relu,
    backward_streams,
    input_gradient,
    load_noise,
    through_head,
)
from fastdqn.learning.fused_quantile import mean_quantiles, quantile_losses, quantile_targets
from fastdqn.learning.fused_torsos import Torso
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.random_inputs import Draw

_ZERO = np.float32(0.0)


class FusedImplicit:
    """ImplicitQuantileValue in the fused learner, with the methods of FusedScalar."""

    def __init__(self, value: ImplicitQuantileValue, num_actions: int, dueling: int):
        self._num_target, self._num_policy, self._num_fractions = value.counts
        self._shape, self._stride = (num_actions, dueling), (dueling + num_actions) * BLOCK

    def allocate(self, blocks: int) -> None:
        self._target = np.zeros((blocks, self._num_target * BLOCK), np.float32)
        self._fractions = np.zeros((blocks, self._num_fractions * BLOCK), np.float32)
        self._chosen = np.zeros(self._num_fractions * BLOCK, np.float32)
        self._sums, self._actions = np.zeros(3 * BLOCK, np.float32), np.zeros(BLOCK, np.int64)

    def expected(self, outputs: np.ndarray, values: np.ndarray) -> None:
        last = outputs[:, outputs.shape[1] - self._num_policy * self._stride :]
        mean_quantiles(last, self._num_policy, *self._shape, values)

    def aim(self, outputs, best, shares, entropy, bonus, reward, discount) -> None:
        quantile_targets(
            outputs, shares, entropy, bonus, reward, discount, self._num_target, *self._shape,
            self._target,
        )  # fmt: skip

    def compare(self, outputs, action, weight, draw: Draw, priority, taken) -> float:
        assert draw.fractions is not None
        for block, rows in enumerate(np.split(draw.fractions.numpy(), _starts(len(action)))):
            self._fractions[block].reshape(-1, BLOCK)[:, : len(rows)] = rows.T
        return quantile_losses(
            outputs, self._target, self._fractions, action, weight, *self._shape, self._chosen,
            self._actions, self._sums, priority, taken,
        )  # fmt: skip


def _starts(size: int) -> range:
    """Returns the first samples of all blocks but the first."""
    return range(BLOCK, size, BLOCK)


class ImplicitPasses:
    """NetworkPasses of a network with an ImplicitHead, after any torso of the family.

    Arguments are those of HeadPasses.
    """

    def __init__(self, online: FlatParameters, layers: Layers, torso: Torso, dueling: int):
        network: Any = online.module
        self._torso = torso
        embedding = layer_table(layers.embedding, online, ends_in_relu=True)
        head, self._of_value = head_table(layers.chains, online)
        self._tables = embedding, head
        self.layers = np.concatenate([torso.layers, embedding, head])
        self.noisy = noise_table(layers.all(), online)
        self._noisy_head = self.noisy[-len(head) :]
        self._factors, self._varied = noise_scratch(head, self._noisy_head)
        self.num_actions = int(head[-1, OUT]) - dueling
        self._dueling, self._stride = dueling, (dueling + self.num_actions) * BLOCK
        self._frequencies = network.head.frequencies.numpy()
        self._spaced = network.head.spaced.numpy().reshape(1, -1)
        self._tau = np.zeros(BLOCK, np.float32)

    def allocate(self, blocks: int) -> None:
        self._x = aligned(blocks, self._torso.width)
        self._passing = tuple(aligned(1, end_of(each)) for each in self._tables)
        self._kept: tuple[np.ndarray, ...] = ()
        self._outputs: dict[tuple[int, int], np.ndarray] = {}
        self._slopes, self._product = aligned(2, int(self._tables[1][0, IN]) * BLOCK)

    def forward(
        self, weights, obs, scale, draw: Draw, slot: int, *, keeps=False, of_rows=NO_ROWS
    ) -> np.ndarray:
        fractions = self._spaced if draw.fractions is None else draw.fractions.numpy()
        count, blocks = fractions.shape[1], -(-len(obs) // BLOCK)
        outputs = self._outputs.get((slot, count))
        if outputs is None:
            outputs = np.zeros((len(self._x), count * self._stride), np.float32)
            self._outputs[slot, count] = outputs
        if keeps and not self._kept:
            self._scratch = gradient_scratch(blocks * count)
            self._kept = tuple(aligned(blocks * count, each.shape[1]) for each in self._passing)
        x = self._x[:blocks]
        self._torso.forward(weights, obs, scale, x)
        forward_fractions(
            *self._tables, weights, fractions, self._frequencies, self._tau,
            self._torso.at_features, x, *(self._kept if keeps else self._passing), outputs,
            self.num_actions, self._dueling, self._of_value, self._noisy_head, of_rows,
            self._factors, self._varied,
        )  # fmt: skip
        return outputs[:blocks]

    def backward(self, weights, outputs, gradient) -> None:
        backward_fractions(
            *self._tables, weights, self._torso.at_features, self._x, *self._kept, outputs,
            self._stride, self._of_value, self._slopes, self._product, *self._scratch, gradient,
        )  # fmt: skip
        self._torso.backward(weights, self._x, *self._scratch, gradient)


@ieee_kernel
def forward_fractions(
    embedding, head, weights, fractions, frequencies, tau, at_features, x, embedded, inner,
    outputs, num_actions, dueling, of_value, noisy_head, of_rows, noise, varied,
):  # fmt: skip
    """Runs features of a batch through embedding and head, with M fractions of each sample.

    Args:
        embedding, head: int64[*, 8], layers, see fused_kernel.py.
        weights: float32[P], flat.
        fractions: float32[B or 1, M].
        frequencies: float32[64].
        tau: float32[BLOCK], scratch memory.
        at_features: Where the features begin in a row of x.
        x: float32[blocks, *], activations of the torso.
        embedded, inner: float32[blocks * M, *], activations of the embedding and of the head, or of
            any other length if no backward pass follows.
        outputs: float32[blocks, M * (D + A) * BLOCK], dueling outputs as those of the actions.
        num_actions, dueling: A and D.
        of_value, of_rows, varied: See fused_passes.through_head().
        noisy_head, noise: As noisy and factors there.
    """
    num_fractions, num_features = fractions.shape[1], head[0, IN]
    stride = (dueling + num_actions) * BLOCK
    from_embedding, from_head = embedding[-1, OUTPUT], head[-1, OUTPUT]
    for block in range(len(x)):
        first = block * BLOCK
        load_noise(of_rows, first, noise)
        features = x[block, at_features:]
        for m in range(num_fractions):
            at = (block * num_fractions + m) % len(inner)
            for s in range(BLOCK):
                tau[s] = fractions[min(first + s, len(fractions) - 1), m]
            for i in range(len(frequencies)):
                for s in range(0, BLOCK, LANES):
                    store(embedded[at], i * BLOCK + s, cos32(load(tau, s) * frequencies[i]))
            through_layers(embedding, weights, embedded[at])
            factors = embedded[at, from_embedding:]
            for i in range(0, num_features * BLOCK, LANES):
                store(inner[at], i, load(factors, i) * load(features, i))
            through_head(
                head, weights, inner[at], 1, dueling, of_value, noisy_head, of_rows, noise, varied
            )
            q = inner[at, from_head:]
            for i in range(stride):
                outputs[block, m * stride + i] = q[i]


@ieee_kernel
def backward_fractions(
    embedding, head, weights, at_features, x, embedded, inner, outputs, stride, of_value, slopes,
    product, transposed, last, gradient,
):  # fmt: skip
    """Backpropagates the gradients in outputs, in place, to the features in x.

    Args not listed are those of forward_fractions(), after that pass, and of
    fused_kernel.weight_gradient().

    Args:
        stride: (D + A) BLOCK.
        slopes, product: float32[F * BLOCK], scratch memory.
    """
    num_features, num_fractions = head[0, IN], outputs.shape[1] // stride
    from_embedding, from_head = embedding[-1, OUTPUT], head[-1, OUTPUT]
    for at in range(len(inner)):
        block, m = at // num_fractions, at % num_fractions
        q = inner[at, from_head:]
        for i in range(stride):
            q[i] = outputs[block, m * stride + i]
        if of_value >= 0:
            backward_streams(inner[at, of_value:], q, 1, head[-1, OUT])
    backpropagate(head, weights, inner, transposed, last, gradient)
    for block in range(len(x)):
        features = x[block, at_features:]
        slopes[:] = _ZERO
        for at in range(block * num_fractions, (block + 1) * num_fractions):
            factors = embedded[at, from_embedding:]
            input_gradient(head, weights, inner[at], product)
            for i in range(0, num_features * BLOCK, LANES):
                slope, factor = load(product, i), load(factors, i)
                store(slopes, i, load(slopes, i) + slope * factor)
                slope *= load(features, i)
                store(factors, i, select(factor <= _ZERO, splat(_ZERO), slope))
        backward_relu(features, slopes)
    backpropagate(embedding, weights, embedded, transposed, last, gradient)
