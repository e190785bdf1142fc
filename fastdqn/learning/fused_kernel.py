"""update(): the complete gradient step of an MLP as one kernel, from forward pass to Adam.

It processes blocks of BLOCK samples, whose activations fit in the L1 cache. Activations are stored
as [feature, sample], so each sample is one lane of a vector. Weights [out, in] are read in their
own order in both directions. Only one factor of the gradient is transposed, block by block.
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import (
    COLUMNS,
    LANES,
    product_added,
    product_from_bias,
    product_through_relu,
    transpose_tile,
)

_ZERO = np.float32(0.0)
BLOCK = COLUMNS
# Columns of layers, int64[L, 11]: offsets of weights [out, in] and bias [out] in the flat tensors;
# in; out; offset of the input in the activations of a block; offset of the gradient in the sums,
# length of its rows, and whether it is transposed there; offset of the output in the activations;
# whether a ReLU follows; whether the input is the output of another layer of the table. A row of
# ones follows each input, so that the gradient of the bias is one more column (row if transposed)
# of the weights' gradient.
WEIGHTS, BIAS, IN, OUT, INPUT, _SUMS, _LENGTH, _SWAPPED, OUTPUT, RELU, INNER = range(11)


@ieee_kernel
def update(
    layers, weights, target_weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon,
    max_norm, obs, action, reward, discount, next_obs, weight, next_mask, priority, taken,
    active, other, turned, sums, loss_sum, double, dueling, scale, slope, bend,
):  # fmt: skip
    """Takes one gradient step on a batch; weights, moments and steps change in place.

    Args not listed are as in Batch and Adam.

    Args:
        layers: int64[L, 11], see above.
        obs, next_obs: float32[B, F].
        next_mask: bool[B, A], or [0, 0] without masks.
        priority, taken: float32[B], outputs.
        active, other: Activations of a block, with their rows of ones.
        turned, sums: Scratch memory.
        loss_sum: [1]; the mean weighted loss is added.
        double: Whether the online network selects the next action.
        dueling: 1 or 0, the output rows before those of the actions.
        scale: Factor of observations.
        slope, bend: The loss is slope / 2 * error^2 for errors within bend of 0, linear beyond.
    """
    loss = differentiate(
        layers, weights, target_weights, obs, action, reward, discount, next_obs, weight,
        next_mask, priority, taken, active, other, turned, sums, double, dueling, scale, slope,
        bend, 0, len(action),
    )  # fmt: skip
    loss_sum[0] += np.float32(loss / len(action))
    collect(layers, sums, turned, gradient)
    descend(weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm)


@ieee_kernel
def differentiate(
    layers, weights, target_weights, obs, action, reward, discount, next_obs, weight, next_mask,
    priority, taken, active, other, turned, sums, double, dueling, scale, slope, bend, begin, end,
):  # fmt: skip
    """Writes the gradient of samples begin to end to sums, and returns their loss.

    begin is a multiple of BLOCK. The gradient is divided by the size of the whole batch, the loss
    is not.
    """
    loss = 0.0
    sums[:] = 0.0
    output = layers[-1, OUTPUT]
    of_actions = output + dueling * BLOCK
    num_actions = layers[-1, OUT] - dueling
    best = np.empty(BLOCK, np.int64)
    for first in range(begin, end, BLOCK):
        size = min(BLOCK, end - first)
        load_block(next_obs, first, size, scale, other)
        if double:
            through_layers(layers, weights, other)
            centre(other[output:], num_actions, dueling)
            select_greedy(other[of_actions:], num_actions, next_mask, first, size, best)
        through_layers(layers, target_weights, other)
        centre(other[output:], num_actions, dueling)
        if not double:
            select_greedy(other[of_actions:], num_actions, next_mask, first, size, best)
        load_block(obs, first, size, scale, active)
        through_layers(layers, weights, active)
        centre(active[output:], num_actions, dueling)
        loss += _compare(
            active[output:], other[of_actions:], best, first, size, num_actions, dueling,
            action, reward, discount, weight, priority, taken, slope, bend,
        )  # fmt: skip
        backpropagate(layers, weights, active, turned, sums)
    return loss


@ieee_kernel
def _compare(
    q, following, best, first, size, num_actions, dueling, action, reward, discount, weight,
    priority, taken, slope, bend,
):  # fmt: skip
    """Returns the loss of a block, and replaces outputs q by the gradient of the mean loss."""
    loss = 0.0
    for s in range(size):
        b = first + s
        value = q[(dueling + action[b]) * BLOCK + s]
        error = reward[b] + discount[b] * following[best[s] * BLOCK + s] - value
        priority[b], taken[b] = abs(error), value
        bent = error  # clipped where the loss is linear; NaN stays NaN
        if error > bend:
            bent = bend
        elif error < -bend:
            bent = -bend
        loss += slope * bent * (error - np.float32(0.5) * bent) * weight[b]
        share = -slope * bent * weight[b] / np.float32(len(action))
        _spread(q, s, num_actions, dueling, action[b], share)
    for row in range(dueling + num_actions):
        q[row * BLOCK + size : (row + 1) * BLOCK] = 0.0
    return loss


@ieee_kernel
def greedy_actions(layers, weights, obs, mask, active, dueling, scale, chosen):
    """Writes the best allowed action for obs, float32[N, F], to chosen, int64[N]."""
    output = layers[-1, OUTPUT]
    of_actions = output + dueling * BLOCK
    num_actions = layers[-1, OUT] - dueling
    best = np.empty(BLOCK, np.int64)
    for first in range(0, len(chosen), BLOCK):
        size = min(BLOCK, len(chosen) - first)
        load_block(obs, first, size, scale, active)
        through_layers(layers, weights, active)
        centre(active[output:], num_actions, dueling)
        select_greedy(active[of_actions:], num_actions, mask, first, size, best)
        for s in range(size):
            chosen[first + s] = best[s]


@ieee_kernel
def rows_of(features):
    """Returns the rows of a layer's input, including the row of ones, as whole tiles."""
    return (features // LANES + 1) * LANES


@ieee_kernel
def load_block(obs, first, size, scale, x):
    """Writes x [F, BLOCK] = obs[first : first + size] * scale, followed by zeros."""
    for s in range(size):
        row = obs[first + s]
        for i in range(len(row)):
            x[i * BLOCK + s] = np.float32(row[i]) * scale
    for i in range(obs.shape[1] if size < BLOCK else 0):
        x[i * BLOCK + size : (i + 1) * BLOCK] = 0.0


@ieee_kernel
def through_layers(layers, weights, x):
    """Computes all layers in order."""
    for n in range(len(layers)):
        features = layers[n, IN]
        product_from_bias(
            x, layers[n, OUTPUT], BLOCK, weights, layers[n, WEIGHTS], features, 1,
            x, layers[n, INPUT], BLOCK, layers[n, OUT], features, weights, layers[n, BIAS],
            np.float32(0.0) if layers[n, RELU] else np.float32(-np.inf),
        )  # fmt: skip


@ieee_kernel
def backpropagate(layers, weights, x, turned, sums):
    """Backpropagates the gradient of the outputs, in place, and adds weight gradients to sums."""
    for n in range(len(layers) - 1, -1, -1):
        begin, features, outputs = layers[n, INPUT], layers[n, IN], layers[n, OUT]
        delta, length = layers[n, OUTPUT], layers[n, _LENGTH]
        left, right, rows, columns = delta, begin, outputs, features + 1
        if layers[n, _SWAPPED]:
            left, right, rows, columns = begin, delta, features + 1, outputs
        # An odd number of vectors in each row, so that rows map to different cache sets.
        stride = length + LANES
        for i in range(0, columns, LANES):
            for s in range(0, BLOCK, LANES):
                transpose_tile(turned, s * stride + i, stride, x, right + i * BLOCK + s, BLOCK)
        for i in range(0, length, COLUMNS):
            product_added(
                sums, layers[n, _SUMS] + i, length, x, left, BLOCK, 1,
                turned, i, stride, rows, BLOCK, weights, 0, np.float32(0.0),
            )  # fmt: skip
        if layers[n, INNER]:
            product_through_relu(
                x, begin, BLOCK, weights, layers[n, WEIGHTS], 1, features,
                x, delta, BLOCK, features, outputs, weights, 0, np.float32(0.0),
            )  # fmt: skip


@ieee_kernel
def collect(layers, sums, turned, gradient):
    """Copies the sums of all layers to their places in the flat gradient."""
    for n in range(len(layers)):
        features, outputs, length = layers[n, IN], layers[n, OUT], layers[n, _LENGTH]
        begin, stride = layers[n, _SUMS], rows_of(features)
        of_weights = gradient[layers[n, WEIGHTS] : layers[n, WEIGHTS] + outputs * features]
        of_bias = gradient[layers[n, BIAS] : layers[n, BIAS] + outputs]
        if not layers[n, _SWAPPED]:
            _unpad(sums[begin:], length, features, of_weights, of_bias)
            continue
        for o in range(0, outputs, LANES):
            for i in range(0, features + 1, LANES):
                transpose_tile(turned, i, stride, sums, begin + i * length + o, length)
            bias = of_bias[o : o + LANES]
            _unpad(turned, stride, features, of_weights[o * features :], bias)


@ieee_kernel
def _unpad(padded, length, features, of_weights, of_bias):
    """Copies rows of weights, each followed by a bias, to contiguous weights and biases."""
    for o in range(len(of_bias)):
        row = padded[o * length : o * length + features]
        to = of_weights[o * features : (o + 1) * features]
        for i in range(features):
            to[i] = row[i]
        of_bias[o] = padded[o * length + features]


@ieee_kernel
def centre(q, num_actions, dueling):
    """Converts a dueling head's [1 + A, BLOCK] to A values, in the last rows; else no change."""
    if dueling:
        for s in range(BLOCK):
            mean = np.float32(0.0)
            for a in range(num_actions):
                mean += q[(1 + a) * BLOCK + s]
            mean /= np.float32(num_actions)
            for a in range(num_actions):
                q[(1 + a) * BLOCK + s] += q[s] - mean


@ieee_kernel
def _spread(q, s, num_actions, dueling, action, share):
    """Writes the gradient of one action's value to all outputs of sample s."""
    for row in range(dueling + num_actions):
        q[row * BLOCK + s] = 0.0
    if dueling:
        q[s] = share
        for a in range(num_actions):
            q[(1 + a) * BLOCK + s] = -share / np.float32(num_actions)
    q[(dueling + action) * BLOCK + s] += share


@ieee_kernel
def select_greedy(values, num_actions, mask, first, size, best):
    """Selects the best allowed action of each sample; NaN counts as best, so that it is noticed."""
    for s in range(size):
        best[s], most = 0, np.float32(-np.inf)
        for a in range(num_actions):
            value = values[a * BLOCK + s]
            if (len(mask) == 0 or mask[first + s, a]) and not value <= most:
                best[s], most = a, value
                if value != value:
                    break


@ieee_kernel
def _norm(gradient):
    """Returns the Euclidean norm, with independent partial sums that need not wait for another."""
    parts = np.zeros(4 * LANES, np.float32)
    for first in range(0, len(gradient), len(parts)):
        row = gradient[first : first + len(parts)]
        for i in range(len(row)):
            parts[i] += row[i] * row[i]
    return np.sqrt(parts.sum())


@ieee_kernel
def descend(
    weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm, least=_ZERO
):  # fmt: skip
    """Clips the gradient's norm if max_norm > 0, and takes one step of Adam; all [P], in place.

    Moments below least become 0. Those of weights without a gradient decay to subnormal numbers,
    with which processors compute a hundred times slower.
    """
    factor = np.float32(1.0)
    if max_norm > 0.0:
        clipped = np.float32(max_norm / (_norm(gradient) + 1e-6))
        factor = factor if clipped > factor else clipped  # NaN stays NaN
    steps[0] += np.float32(1.0)
    keep, keep_sq = np.float32(betas[0]), np.float32(betas[1])
    add, add_sq = np.float32(1.0 - betas[0]), np.float32(1.0 - betas[1])
    step = np.float32(rate[0] / (1.0 - betas[0] ** steps[0]))
    root = np.float32(1.0 / np.sqrt(1.0 - betas[1] ** steps[0]))
    small = np.float32(epsilon)
    for i in range(len(weights)):
        slope = gradient[i] * factor
        average = keep * exp_avg[i] + add * slope
        square = keep_sq * exp_avg_sq[i] + add_sq * (slope * slope)
        average = _ZERO if abs(average) < least else average  # NaN stays NaN
        square = _ZERO if square < least else square
        gradient[i], exp_avg[i], exp_avg_sq[i] = slope, average, square
        weights[i] -= step * average / (np.sqrt(square) * root + small)
