"""Implicit quantiles (IQN) in the fused learner: passes, targets, loss and gradient, as kernels.

Each fraction of a block of samples is a block of its own for the embedding and the head. Outputs of
a block of samples are [M, D + A, BLOCK], as those of M quantiles at fixed fractions.
"""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES, product_from_bias
from fastdqn.kernels.vector_math import cos32
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning import fused_kernel
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_kernel import (
    BLOCK,
    IN,
    OUT,
    WEIGHTS,
    backpropagate,
    load_block,
    rows_of,
    through_layers,
)
from fastdqn.learning.fused_learner import activations, layer_table, scratch
from fastdqn.learning.fused_mlp import NO_ROWS, noise_scratch, noise_table
from fastdqn.learning.fused_passes import (
    combine_streams,
    load_noise,
    output_of,
    through_noisy_layers,
)
from fastdqn.learning.fused_quantile import mean_quantiles, quantile_losses, quantile_targets
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.random_inputs import Draw

_ZERO = np.float32(0.0)


class FusedImplicit:
    """ImplicitQuantileValue in the fused learner, with the methods of FusedScalar."""

    def __init__(self, value: ImplicitQuantileValue, num_actions: int, dueling: int):
        self._num_target, self._num_policy, self._num_fractions = value.counts
        self._shape, self._stride = (num_actions, dueling), (dueling + num_actions) * BLOCK

    def adopt(self, blocks: int) -> None:
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
    """Passes of a network with an ImplicitHead. Arguments and methods are those of MLPPasses."""

    def __init__(self, online: FlatParameters, torso: list[Any], head: list[Any], dueling: int):
        network: Any = online.module
        embedding = [network.head.embedding]
        self._tables = tuple(layer_table(each, online) for each in (torso, embedding, head))
        self.layers = np.concatenate(self._tables)
        self.noisy = noise_table([*torso, *embedding, *head], online)
        self._noisy_head = self.noisy[-len(head) :]
        self._factors, self._varied = noise_scratch(self._tables[2], self._noisy_head)
        self.num_actions = int(self._tables[2][-1, OUT]) - dueling
        self._dueling, self._stride = dueling, (dueling + self.num_actions) * BLOCK
        self.num_inputs = int(self._tables[0][0, IN] if torso else self._tables[2][0, IN])
        self._frequencies = network.head.frequencies.numpy()
        self._spaced = network.head.spaced.numpy().reshape(1, -1)
        self._features = int(output_of(self._tables[0])) if torso else 0
        self._num_features = int(self._tables[2][0, IN])
        self._no_bias = np.zeros(self._num_features, np.float32)
        self._tau = np.zeros(BLOCK, np.float32)

    def adopt(self, blocks: int) -> None:
        torso, embedding, head = self._tables
        rows = int(rows_of(self._num_features)) * BLOCK
        one = activations(torso) if len(torso) else np.zeros(rows, np.float32)
        self._x = np.tile(one, (blocks, 1))
        self._passing = tuple(activations(each).reshape(1, -1) for each in (embedding, head))
        self._kept: tuple[np.ndarray, ...] = ()
        self._outputs: dict[tuple[int, int], np.ndarray] = {}
        self._scratch = [scratch(each if len(each) else embedding)[2:] for each in self._tables]
        self._slopes, self._product = np.zeros((2, self._num_features * BLOCK), np.float32)

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
            self._kept = tuple(np.tile(each, (blocks * count, 1)) for each in self._passing)
        forward_fractions(
            *self._tables, weights, obs, scale, fractions, self._frequencies, self._tau,
            self._features, self._x[:blocks], *(self._kept if keeps else self._passing), outputs,
            self.num_actions, self._dueling, self._noisy_head, of_rows, self._factors, self._varied,
        )  # fmt: skip
        return outputs[:blocks]

    def backward(self, weights, outputs, gradient) -> None:
        backward_fractions(
            *self._tables, weights, self._features, self._x, *self._kept, outputs, self._stride,
            self._slopes, self._product, self._no_bias, *self._scratch[0], *self._scratch[1],
            *self._scratch[2],
        )  # fmt: skip
        for table, (turned, sums) in zip(self._tables, self._scratch, strict=True):
            fused_kernel.collect(table, sums, turned, gradient)


@ieee_kernel
def forward_fractions(
    torso, embedding, head, weights, obs, scale, fractions, frequencies, tau, at_features, x,
    embedded, inner, outputs, num_actions, dueling, noisy_head, of_rows, noise, varied,
):  # fmt: skip
    """Runs a batch through torso, embedding and head, with M fractions of each sample.

    Args:
        torso, embedding, head: int64[*, 8], layers, see fused_kernel.py; the torso may have none.
        weights: float32[P], flat.
        obs: float32[B, features].
        scale: Factor of observations.
        fractions: float32[B or 1, M].
        frequencies: float32[64].
        tau: float32[BLOCK], scratch memory.
        at_features: Where the torso's output begins in a row of x.
        x: float32[blocks, *], activations of the torso.
        embedded, inner: float32[blocks * M, *], activations of the embedding and of the head, or of
            any other length if no backward pass follows.
        outputs: float32[blocks, M * (D + A) * BLOCK], dueling outputs as those of the actions.
        num_actions, dueling: A and D.
        noisy_head, of_rows, noise, varied: As noisy, of_rows, factors and varied of
            fused_passes.forward(), for the head.
    """
    num_fractions, num_features = fractions.shape[1], head[0, IN]
    stride = (dueling + num_actions) * BLOCK
    from_embedding, from_head = output_of(embedding), output_of(head)
    for block in range(len(x)):
        first = block * BLOCK
        size = min(BLOCK, len(obs) - first)
        load_block(obs, first, size, scale, x[block])
        if len(of_rows) > 0:
            load_noise(of_rows, first, noise)
        features = x[block, at_features:]
        if len(torso) > 0:
            through_layers(torso, weights, x[block])
            for i in range(0, num_features * BLOCK, LANES):
                feature = load(features, i)
                store(features, i, select(feature < _ZERO, _ZERO, feature))
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
                factor = load(factors, i)
                factor = select(factor < _ZERO, _ZERO, factor)
                store(factors, i, factor)
                store(inner[at], i, factor * load(features, i))
            if len(of_rows) > 0:
                through_noisy_layers(head, noisy_head, weights, noise, inner[at], varied)
            else:
                through_layers(head, weights, inner[at])
            q = inner[at, from_head:]
            if dueling:
                combine_streams(q, 1, num_actions)
            for i in range(stride):
                outputs[block, m * stride + i] = q[i]


@ieee_kernel
def backward_fractions(
    torso, embedding, head, weights, at_features, x, embedded, inner, outputs, stride, slopes,
    product, no_bias, turned_torso, sums_torso, turned_embedding, sums_embedding, turned_head,
    sums_head,
):  # fmt: skip
    """Backpropagates the gradients in outputs, and writes the sums of all layers.

    Args not listed are those of forward_fractions(), after that pass.

    Args:
        stride: (D + A) BLOCK.
        slopes, product: float32[F * BLOCK], scratch memory.
        no_bias: float32[F], zeros.
        turned_torso, turned_embedding, turned_head: Scratch memory.
        sums_torso, sums_embedding, sums_head: Outputs, see collect().
    """
    sums_torso[:] = _ZERO
    sums_embedding[:] = _ZERO
    sums_head[:] = _ZERO
    num_features, num_fractions = head[0, IN], outputs.shape[1] // stride
    from_embedding, from_head = output_of(embedding), output_of(head)
    delta = rows_of(num_features) * BLOCK
    for block in range(len(x)):
        features = x[block, at_features:]
        slopes[:] = _ZERO
        for m in range(num_fractions):
            at = block * num_fractions + m
            q, factors = inner[at, from_head:], embedded[at, from_embedding:]
            for i in range(stride):
                q[i] = outputs[block, m * stride + i]
            backpropagate(head, weights, inner[at], turned_head, sums_head)
            product_from_bias(
                product, 0, BLOCK, weights, head[0, WEIGHTS], 1, num_features,
                inner[at], delta, BLOCK, num_features, head[0, OUT], no_bias, 0,
                np.float32(-np.inf),
            )  # fmt: skip
            for i in range(0, num_features * BLOCK, LANES):
                slope, factor = load(product, i), load(factors, i)
                store(slopes, i, load(slopes, i) + slope * factor)
                slope *= load(features, i)
                store(factors, i, select(factor <= _ZERO, splat(_ZERO), slope))
            backpropagate(embedding, weights, embedded[at], turned_embedding, sums_embedding)
        if len(torso) > 0:
            for i in range(0, num_features * BLOCK, LANES):
                closed = load(features, i) <= _ZERO
                store(features, i, select(closed, splat(_ZERO), load(slopes, i)))
            backpropagate(torso, weights, x[block], turned_torso, sums_torso)
