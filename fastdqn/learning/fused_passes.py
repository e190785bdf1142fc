"""Passes of the fused learner: a whole batch through dense layers, forward and backward.

Activations of a batch are float32[number of blocks, size], each block as in fused_kernel.py. The
outputs of a block are [Z, D + A, BLOCK] rows, those of the last layer: for each of Z outputs per
action, D = 1 row of a dueling head's value, or none, and one row for each action. Streams with
layers of their own have D = 0: they become the outputs of actions, and their Z values lie apart.
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES, product, product_added, product_from_bias
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning.fused_kernel import (
    BIAS,
    BLOCK,
    IN,
    INNER,
    INPUT,
    OUT,
    OUTPUT,
    RELU,
    WEIGHTS,
    backpropagate,
    load_block,
    through_layers,
    weight_gradient,
)

_ZERO = np.float32(0.0)
# Rows of a wide layer's weights that stay in the L2 cache, 256 KiB for 1024 features.
_ROWS = 64


@ieee_kernel
def forward(
    layers, weights, obs, scale, x, per_action, dueling, noisy, of_rows, factors, varied
):  # fmt: skip
    """Writes activations and outputs of all layers, from observations.

    Args not listed are those of through_head().

    Args:
        obs: [B, F].
        scale: Factor of observations.
        x: float32[blocks, size], activations.
    """
    for block in range(len(x)):
        first = block * BLOCK
        load_block(obs, first, min(BLOCK, len(obs) - first), scale, x[block])
        load_noise(of_rows, first, factors)
        through_head(
            layers, weights, x[block], per_action, dueling, -1, noisy, of_rows, factors, varied
        )


@ieee_kernel
def forward_head(
    layers, readers, rest, weights, x, per_action, dueling, of_value, noisy, of_rows, factors,
    varied,
):  # fmt: skip
    """Writes activations and outputs of a head, from features in x, float32[blocks, size].

    Args not listed are those of through_head(); readers and rest are those of backward_head().
    """
    if len(of_rows) == 0:
        through_wide_layers(readers, weights, x)
    for block in range(len(x)):
        if len(of_rows) > 0:
            load_noise(of_rows, block * BLOCK, factors)
            through_noisy_layers(layers, noisy, weights, factors, x[block], varied)
        else:
            through_layers(rest, weights, x[block])
        combine_outputs(layers, x[block], per_action, dueling, of_value)


@ieee_kernel
def through_wide_layers(layers, weights, x):
    """Computes layers with the same input for all blocks, for some rows of weights at a time."""
    flat, size = x.reshape(-1), x.shape[1]
    for n in range(len(layers)):
        features, outputs = layers[n, IN], layers[n, OUT]
        for o in range(0, outputs, _ROWS):
            for block in range(len(x)):
                first = block * size
                product_from_bias(
                    flat, first + layers[n, OUTPUT] + o * BLOCK, BLOCK,
                    weights, layers[n, WEIGHTS] + o * features, features, 1,
                    flat, first + layers[n, INPUT], BLOCK, min(_ROWS, outputs - o), features,
                    weights, layers[n, BIAS] + o, _ZERO if layers[n, RELU] else np.float32(-np.inf),
                )  # fmt: skip


@ieee_kernel
def through_head(
    layers, weights, x, per_action, dueling, of_value, noisy, of_rows, factors, varied
):  # fmt: skip
    """Computes all layers of a block; outputs of a dueling head become those of the actions.

    Args:
        layers: int64[L, 8], see fused_kernel.py.
        weights: float32[P], flat.
        x: Activations of the block.
        per_action: Z.
        dueling: D, 1 or 0.
        of_value: Where the outputs of a value stream with layers of its own begin, or -1.
        noisy, factors, varied: See through_noisy_layers().
        of_rows: float32[B, D], noise of each sample, or [0, 0] without it.
    """
    if len(of_rows) > 0:
        through_noisy_layers(layers, noisy, weights, factors, x, varied)
    else:
        through_layers(layers, weights, x)
    combine_outputs(layers, x, per_action, dueling, of_value)


@ieee_kernel
def combine_outputs(layers, x, per_action, dueling, of_value):
    """Converts the outputs of a dueling head to those of the actions; see through_head()."""
    outputs, num_actions = x[layers[-1, OUTPUT] :], layers[-1, OUT] // per_action - dueling
    if dueling:
        combine_streams(outputs, per_action, num_actions)
    if of_value >= 0:
        join_streams(x[of_value:], outputs, per_action, num_actions)


@ieee_kernel
def load_noise(of_rows, first, factors):
    """Writes the noise of a block to factors [D * BLOCK]; after the last row, that row's noise."""
    for s in range(BLOCK if len(of_rows) > 0 else 0):
        row = of_rows[min(first + s, len(of_rows) - 1)]
        for i in range(len(row)):
            factors[i * BLOCK + s] = row[i]


@ieee_kernel
def through_noisy_layers(layers, noisy, weights, factors, x, varied):
    """As through_layers(), with noise of each sample: W x + b + f (S (e x) + s).

    Args:
        layers: int64[L, 8].
        noisy: int64[L, 4], see add_noise().
        weights: float32[P], flat.
        factors: float32[D * BLOCK], see load_noise().
        x: Activations of the block.
        varied: float32[2, *], scratch memory for the rows of the largest layer.
    """
    scaled, added = varied[0], varied[1]
    for n in range(len(layers)):
        begin, features, outputs = layers[n, INPUT], layers[n, IN], layers[n, OUT]
        to, unbounded = layers[n, OUTPUT], np.float32(-np.inf)
        floor = _ZERO if layers[n, RELU] else unbounded
        is_noisy = noisy[n, 0] >= 0
        product_from_bias(
            x, to, BLOCK, weights, layers[n, WEIGHTS], features, 1, x, begin, BLOCK, outputs,
            features, weights, layers[n, BIAS], unbounded if is_noisy else floor,
        )  # fmt: skip
        if is_noisy:
            e, f = noisy[n, 2] * BLOCK, noisy[n, 3] * BLOCK
            for i in range(0, features * BLOCK, LANES):
                store(scaled, i, load(x, begin + i) * load(factors, e + i))
            product_from_bias(
                added, 0, BLOCK, weights, noisy[n, 0], features, 1, scaled, 0, BLOCK, outputs,
                features, weights, noisy[n, 1], unbounded,
            )  # fmt: skip
            for i in range(0, outputs * BLOCK, LANES):
                y = load(x, to + i) + load(factors, f + i) * load(added, i)
                store(x, to + i, select(y < floor, splat(floor), y))


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
def join_streams(values, q, per_action, num_actions):
    """Converts advantages q [Z, A] to the logits of actions, in place, with values [Z]."""
    share = np.float32(1.0) / np.float32(num_actions)
    for z in range(per_action):
        for s in range(0, BLOCK, LANES):
            first, total = z * num_actions * BLOCK + s, splat(_ZERO)
            for a in range(num_actions):
                total += load(q, first + a * BLOCK)
            added = load(values, z * BLOCK + s) - total * share
            for a in range(num_actions):
                store(q, first + a * BLOCK, load(q, first + a * BLOCK) + added)


@ieee_kernel
def backward_streams(values, q, per_action, num_actions):
    """Backward pass of join_streams(): q [Z, A] in place, and the gradients of values [Z]."""
    share = np.float32(1.0) / np.float32(num_actions)
    for z in range(per_action):
        for s in range(0, BLOCK, LANES):
            first, total = z * num_actions * BLOCK + s, splat(_ZERO)
            for a in range(num_actions):
                total += load(q, first + a * BLOCK)
            store(values, z * BLOCK + s, total)
            for a in range(num_actions):
                store(q, first + a * BLOCK, load(q, first + a * BLOCK) - total * share)


@ieee_kernel
def backward_head(
    readers, rest, weights, x, output, streams, slopes, transposed, last, gradient
):  # fmt: skip
    """Backpropagates the gradients of a head's outputs in x, in place, to its features in x.

    Args not listed are those of through_head() and fused_kernel.weight_gradient().

    Args:
        readers: int64[1 or 2, 8], the layers that read the features.
        rest: int64[*, 8], all others.
        x: float32[blocks, size], activations. Features are outputs of a ReLU.
        output: Where the outputs begin.
        streams: (Z, A, of_value).
        slopes: float32[F * BLOCK], scratch memory.
    """
    per_action, num_actions, of_value = streams
    for block in range(len(x) if of_value >= 0 else 0):
        backward_streams(x[block, of_value:], x[block, output:], per_action, num_actions)
    backpropagate(rest, weights, x, transposed, last, gradient)
    for n in range(len(readers)):
        weight_gradient(readers[n], x, transposed, last, gradient)
    for block in range(len(x)):
        input_gradient(readers, weights, x[block], slopes)
        backward_relu(x[block, readers[0, INPUT] :], slopes)


@ieee_kernel
def input_gradient(layers, weights, x, slopes):
    """Writes the gradient of a head's input to slopes [F * BLOCK], from those of its readers."""
    features = layers[0, IN]
    for n in range(len(layers)):
        if n == 0:
            product(
                slopes, 0, BLOCK, weights, layers[0, WEIGHTS], 1, features,
                x, layers[0, OUTPUT], BLOCK, features, layers[0, OUT], weights, 0, _ZERO,
            )  # fmt: skip
        elif not layers[n, INNER]:
            product_added(
                slopes, 0, BLOCK, weights, layers[n, WEIGHTS], 1, features,
                x, layers[n, OUTPUT], BLOCK, features, layers[n, OUT], weights, 0, _ZERO,
            )  # fmt: skip


@ieee_kernel
def backward_relu(features, slopes):
    """Replaces features, outputs of a ReLU, by the gradient before it; slopes is that after it."""
    for i in range(0, len(slopes), LANES):
        closed = load(features, i) <= _ZERO
        store(features, i, select(closed, splat(_ZERO), load(slopes, i)))


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
            for i in range(at, at + outputs * features):  # slices take longer to compile
                effective[i] = weights[i]
            for i in range(of_bias, of_bias + outputs):
                effective[i] = weights[i]
            continue
        e, whole = noisy[n, 2], features // LANES * LANES
        for o in range(outputs):
            f, row, sigma = noise[noisy[n, 3] + o], at + o * features, noisy[n, 0] + o * features
            for i in range(0, whole, LANES):
                added = load(weights, sigma + i) * (load(noise, e + i) * f)
                store(effective, row + i, load(weights, row + i) + added)
            for i in range(whole, features):
                effective[row + i] = weights[row + i] + weights[sigma + i] * (f * noise[e + i])
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
