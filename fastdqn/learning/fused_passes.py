"""Passes of the fused learner: a whole batch through an MLP, forward and backward.

Activations of a batch are float32[number of blocks, size], each block as in fused_kernel.py. The
outputs of a block are [Z, D + A, BLOCK] rows behind the last input: for each of Z outputs per
action, D = 1 row of a dueling head's value, or none, and one row for each action.
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vectors import load, multiply_add, splat, store
from fastdqn.learning.fused_kernel import (
    BIAS,
    BLOCK,
    IN,
    INPUT,
    OUT,
    WEIGHTS,
    backpropagate,
    load_block,
    rows_of,
    through_layers,
)

_ZERO = np.float32(0.0)


@ieee_kernel
def output_of(layers):
    """Returns where the outputs of a block begin."""
    return layers[-1, INPUT] + rows_of(layers[-1, IN]) * BLOCK


@ieee_kernel
def forward(layers, weights, obs, scale, x, per_action, dueling):
    """Writes activations and outputs of all layers; dueling outputs become those of the actions.

    Args:
        layers: int64[L, 8], see fused_kernel.py.
        weights: float32[P], flat.
        obs: float32[B, F].
        scale: Factor of observations.
        x: float32[blocks, size], activations with their rows of ones.
        per_action: Z.
        dueling: D, 1 or 0.
    """
    output = output_of(layers)
    num_actions = layers[-1, OUT] // per_action - dueling
    for block in range(len(x)):
        first = block * BLOCK
        size = min(BLOCK, len(obs) - first)
        load_block(obs, first, size, scale, x[block])
        through_layers(layers, weights, x[block])
        if dueling:
            combine_streams(x[block, output:], per_action, num_actions)


@ieee_kernel
def combine_streams(q, per_action, num_actions):
    """Converts value and advantages to the logits of actions, in place; the value row stays."""
    share = np.float32(1.0) / np.float32(num_actions)
    for z in range(per_action):
        for s in range(0, BLOCK, LANES):
            value = z * (1 + num_actions) * BLOCK + s
            total = splat(_ZERO)
            for a in range(1, num_actions + 1):
                total += load(q, value + a * BLOCK)
            added = load(q, value) - total * share
            for a in range(1, num_actions + 1):
                store(q, value + a * BLOCK, load(q, value + a * BLOCK) + added)


@ieee_kernel
def backward(layers, weights, x, turned, sums):
    """Backpropagates the gradients of outputs in x, in place, and writes the sums of weights."""
    sums[:] = 0.0
    for block in range(len(x)):
        backpropagate(layers, weights, x[block], turned, sums)


@ieee_kernel
def spread(outputs, stride, s, num_actions, dueling, action, shares, per_action):
    """Writes the gradients of one action's Z outputs to all outputs of sample s.

    Args:
        outputs: The outputs of a block, [Z, D + A, BLOCK] flat.
        stride: (D + A) BLOCK.
        s: The sample.
        num_actions: A.
        dueling: D.
        action: Its action.
        shares: float32[Z, BLOCK] flat, the gradients.
        per_action: Z.
    """
    for z in range(per_action):
        begin, share = z * stride, shares[z * BLOCK + s]
        for row in range(dueling + num_actions):
            outputs[begin + row * BLOCK + s] = 0.0
        if dueling:
            outputs[begin + s] = share
            for a in range(num_actions):
                outputs[begin + (1 + a) * BLOCK + s] = -share / np.float32(num_actions)
        outputs[begin + (dueling + action) * BLOCK + s] += share


@ieee_kernel
def add_noise(weights, noisy, layers, noise, effective):
    """Writes the weights of a pass with shared noise: W + S * (f e), in the places of W.

    Args:
        weights: float32[P], flat.
        noisy: int64[L, 4]: offsets of the deviations of weights and biases, and of the factors e
            and f in noise; -1 for layers without noise.
        layers: int64[L, 8].
        noise: float32[D].
        effective: float32[P], output. Places of deviations are not written.
    """
    for n in range(len(layers)):
        features, outputs = layers[n, IN], layers[n, OUT]
        at, of_bias = layers[n, WEIGHTS], layers[n, BIAS]
        if noisy[n, 0] < 0:
            effective[at : at + outputs * features] = weights[at : at + outputs * features]
            effective[of_bias : of_bias + outputs] = weights[of_bias : of_bias + outputs]
            continue
        e, whole = noisy[n, 2], features // LANES * LANES
        for o in range(outputs):
            f, row, deviations = (
                noise[noisy[n, 3] + o],
                at + o * features,
                noisy[n, 0] + o * features,
            )
            for i in range(0, whole, LANES):
                product = load(noise, e + i) * f
                product = multiply_add(
                    load(weights, deviations + i), product, load(weights, row + i)
                )
                store(effective, row + i, product)
            for i in range(whole, features):
                effective[row + i] = weights[row + i] + weights[deviations + i] * (f * noise[e + i])
            effective[of_bias + o] = weights[of_bias + o] + weights[noisy[n, 1] + o] * f


@ieee_kernel
def add_noise_gradients(gradient, noisy, layers, noise):
    """Writes the gradients of all deviations, from those of the weights."""
    for n in range(len(layers)):
        if noisy[n, 0] >= 0:
            features, outputs = layers[n, IN], layers[n, OUT]
            e = noise[noisy[n, 2] : noisy[n, 2] + features]
            for o in range(outputs):
                f = noise[noisy[n, 3] + o]
                row = gradient[layers[n, 0] + o * features : layers[n, 0] + (o + 1) * features]
                at = noisy[n, 0] + o * features
                deviations = gradient[at : at + features]
                for i in range(features):
                    deviations[i] = row[i] * (f * e[i])
                gradient[noisy[n, 1] + o] = gradient[layers[n, 1] + o] * f
