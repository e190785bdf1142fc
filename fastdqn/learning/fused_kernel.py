"""The whole update of an MLP of scalar values as one kernel: forward, loss, backward, clip, Adam.

A block of BLOCK samples goes forward and back while its activations lie in the nearest cache.
They are [feature, sample]: a sample is a lane of a vector. So weights [out, in] are read as they
lie, forward and back; only one factor of the gradient is transposed, block by block.
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

BLOCK = COLUMNS
# Columns of layers [L, 8] int64: where weights [out, in] and bias [out] begin in the flat tensors;
# in; out; where the input begins in a block's activations, where the gradient begins in the sums,
# length of a row there, and whether it is transposed there. The input has a row of ones behind
# it, so the gradient of the bias is one more column (transposed: row) of that of the weights.
_WEIGHTS, _BIAS, IN, _OUT, _INPUT, _SUMS, _LENGTH, _SWAPPED = range(8)


@ieee_kernel
def update(
    layers, weights, target_weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon,
    max_norm, obs, action, reward, discount, next_obs, weight, next_mask, priority, taken,
    active, other, turned, sums, loss_sum, double, dueling, scale, slope, bend,
):  # fmt: skip
    """One step of gradient descent on a batch: weights, moments and steps change in place.

    obs, next_obs [B, F] float32; next_mask [B, A] bool, or [0, 0]; the rest as in Batch
    priority, taken  [B] float32, written; loss_sum  [1], the mean weighted loss is added
    active, other    activations of a block, with their rows of ones; turned, sums  scratch
    double           whether the online network selects the next action
    dueling          1 or 0: rows of output before those of the actions
    scale            factor of observations
    slope, bend      loss = slope / 2 * error^2 within bend of 0, then straight
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
    """Samples from begin, a multiple of BLOCK, to end: their gradient to sums; gives their loss.

    Each is a share of the whole batch's mean, the loss before it is divided by its length.
    """
    loss = 0.0
    sums[:] = 0.0
    output = layers[-1, _INPUT] + rows_of(layers[-1, IN]) * BLOCK
    of_actions = output + dueling * BLOCK
    num_actions = layers[-1, _OUT] - dueling
    best = np.empty(BLOCK, np.int64)
    for first in range(begin, end, BLOCK):
        size = min(BLOCK, end - first)
        _load(next_obs, first, size, scale, other)
        if double:
            _forward(layers, weights, other)
            _centre(other[output:], num_actions, dueling)
            _select(other[of_actions:], num_actions, next_mask, first, size, best)
        _forward(layers, target_weights, other)
        _centre(other[output:], num_actions, dueling)
        if not double:
            _select(other[of_actions:], num_actions, next_mask, first, size, best)
        _load(obs, first, size, scale, active)
        _forward(layers, weights, active)
        _centre(active[output:], num_actions, dueling)
        loss += _compare(
            active[output:], other[of_actions:], best, first, size, num_actions, dueling,
            action, reward, discount, weight, priority, taken, slope, bend,
        )  # fmt: skip
        _backward(layers, weights, active, turned, sums)
    return loss


@ieee_kernel
def _compare(
    q, following, best, first, size, num_actions, dueling, action, reward, discount, weight,
    priority, taken, slope, bend,
):  # fmt: skip
    """Loss of a block, summed; outputs q become the gradient of the batch's mean loss by them."""
    loss = 0.0
    for s in range(size):
        b = first + s
        value = q[(dueling + action[b]) * BLOCK + s]
        error = reward[b] + discount[b] * following[best[s] * BLOCK + s] - value
        priority[b], taken[b] = abs(error), value
        bent = error  # where the loss is straight, the error at its bend; NaN stays
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
def choose(layers, weights, obs, mask, active, dueling, scale, chosen):
    """The best allowed action of each obs [N, F] float32 to chosen [N] int64; mask as next_mask."""
    output = layers[-1, _INPUT] + rows_of(layers[-1, IN]) * BLOCK
    of_actions = output + dueling * BLOCK
    num_actions = layers[-1, _OUT] - dueling
    best = np.empty(BLOCK, np.int64)
    for first in range(0, len(chosen), BLOCK):
        size = min(BLOCK, len(chosen) - first)
        _load(obs, first, size, scale, active)
        _forward(layers, weights, active)
        _centre(active[output:], num_actions, dueling)
        _select(active[of_actions:], num_actions, mask, first, size, best)
        for s in range(size):
            chosen[first + s] = best[s]


@ieee_kernel
def rows_of(features):
    """Rows of a layer's input in the activations: with that of ones, in whole tiles."""
    return (features // LANES + 1) * LANES


@ieee_kernel
def _load(obs, first, size, scale, x):
    """x [F, BLOCK] = obs[first : first + size] scaled, then zeros."""
    for s in range(size):
        row = obs[first + s]
        for i in range(len(row)):
            x[i * BLOCK + s] = row[i] * scale
    for i in range(obs.shape[1] if size < BLOCK else 0):
        x[i * BLOCK + size : (i + 1) * BLOCK] = 0.0


@ieee_kernel
def _forward(layers, weights, x):
    """All layers, ReLU between them; the output stands behind the last input."""
    for n in range(len(layers)):
        last = n == len(layers) - 1
        begin, features = layers[n, _INPUT], layers[n, IN]
        product_from_bias(
            x, begin + rows_of(features) * BLOCK, BLOCK, weights, layers[n, _WEIGHTS], features, 1,
            x, begin, BLOCK, layers[n, _OUT], features, weights, layers[n, _BIAS],
            np.float32(-np.inf) if last else np.float32(0.0),
        )  # fmt: skip


@ieee_kernel
def _backward(layers, weights, x, turned, sums):
    """From the gradient of the output, in its place, to all others; adds them to the sums."""
    for n in range(len(layers) - 1, -1, -1):
        begin, features, outputs = layers[n, _INPUT], layers[n, IN], layers[n, _OUT]
        delta, length = begin + rows_of(features) * BLOCK, layers[n, _LENGTH]
        left, right, rows, columns = delta, begin, outputs, features + 1
        if layers[n, _SWAPPED]:
            left, right, rows, columns = begin, delta, features + 1, outputs
        # An odd number of vectors in a row: rows then fall into different sets of a cache.
        stride = length + LANES
        for i in range(0, columns, LANES):
            for s in range(0, BLOCK, LANES):
                transpose_tile(turned, s * stride + i, stride, x, right + i * BLOCK + s, BLOCK)
        for i in range(0, length, COLUMNS):
            product_added(
                sums, layers[n, _SUMS] + i, length, x, left, BLOCK, 1,
                turned, i, stride, rows, BLOCK, weights, 0, np.float32(0.0),
            )  # fmt: skip
        if n > 0:
            product_through_relu(
                x, begin, BLOCK, weights, layers[n, _WEIGHTS], 1, features,
                x, delta, BLOCK, features, outputs, weights, 0, np.float32(0.0),
            )  # fmt: skip


@ieee_kernel
def collect(layers, sums, turned, gradient):
    """The sums of all layers to where they belong in the flat gradient."""
    for n in range(len(layers)):
        features, outputs, length = layers[n, IN], layers[n, _OUT], layers[n, _LENGTH]
        begin, stride = layers[n, _SUMS], rows_of(features)
        of_weights = gradient[layers[n, _WEIGHTS] : layers[n, _WEIGHTS] + outputs * features]
        of_bias = gradient[layers[n, _BIAS] : layers[n, _BIAS] + outputs]
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
    """Rows of so many features and the bias behind them, to where each lies without a gap."""
    for o in range(len(of_bias)):
        row = padded[o * length : o * length + features]
        to = of_weights[o * features : (o + 1) * features]
        for i in range(features):
            to[i] = row[i]
        of_bias[o] = padded[o * length + features]


@ieee_kernel
def _centre(q, num_actions, dueling):
    """[1 + A, BLOCK] of a dueling head to A values in its last rows; others are values already."""
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
    """The gradient of one value to all outputs of sample s."""
    for row in range(dueling + num_actions):
        q[row * BLOCK + s] = 0.0
    if dueling:
        q[s] = share
        for a in range(num_actions):
            q[(1 + a) * BLOCK + s] = -share / np.float32(num_actions)
    q[(dueling + action) * BLOCK + s] += share


@ieee_kernel
def _select(values, num_actions, mask, first, size, best):
    """The best allowed action of each sample; a NaN counts as the best, so that it is seen."""
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
    """Euclidean norm, by sums side by side: one alone would wait for each addition."""
    parts = np.zeros(4 * LANES, np.float32)
    for first in range(0, len(gradient), len(parts)):
        row = gradient[first : first + len(parts)]
        for i in range(len(row)):
            parts[i] += row[i] * row[i]
    return np.sqrt(parts.sum())


@ieee_kernel
def descend(weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm):
    """Clip the gradient's norm where max_norm > 0, and take a step of Adam: all [P], in place."""
    factor = np.float32(1.0)
    if max_norm > 0.0:
        clipped = np.float32(max_norm / (_norm(gradient) + 1e-6))
        factor = factor if clipped > factor else clipped  # NaN stays
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
        gradient[i], exp_avg[i], exp_avg_sq[i] = slope, average, square
        weights[i] -= step * average / (np.sqrt(square) * root + small)
