"""update(): the complete gradient step of an MLP as one kernel, from forward pass to Adam.

It processes blocks of BLOCK samples, whose activations fit in the L1 cache. Activations are stored
as [feature, sample], so each sample is one lane of a vector. Weights [out, in] are read in their
own order in both directions. The gradient of a layer's weights is a product over the whole batch,
for which COLUMNS inputs at a time are transposed.
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import (
    COLUMNS,
    LANES,
    product_from_bias,
    product_of_blocks,
    product_through_relu,
    transpose_tile,
)
from fastdqn.kernels.vectors import load, multiply_add, splat, sum_of_lanes

BLOCK = COLUMNS
# Columns of layers, int64[L, 8]: offsets of weights [out, in] and bias [out] in the flat tensors;
# in; out; offsets of input and output in the activations of a block; whether a ReLU follows;
# whether the input is the output of another layer of the table.
WEIGHTS, BIAS, IN, OUT, INPUT, OUTPUT, RELU, INNER = range(8)
# Inputs or outputs of a layer up to which sums over single rows are faster than transposed tiles.
_THIN = 8
# Most rows at the end of a layer's gradient whose tiles would reach beyond it.
LAST_ROWS = (COLUMNS - 1) // (_THIN + 1)


@ieee_kernel
def update(
    layers, weights, target_weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon,
    max_norm, obs, action, reward, discount, next_obs, weight, next_mask, priority, taken,
    active, other, transposed, last, loss_sum, double, dueling, scale, slope, bend,
):  # fmt: skip
    """Takes one gradient step on a batch; weights, moments and steps change in place.

    Args not listed are as in Batch and Adam.

    Args:
        layers: int64[L, 8], see above.
        obs, next_obs: float32[B, F].
        next_mask: bool[B, A], or [0, 0] without masks.
        priority, taken: float32[B], outputs.
        active: float32[blocks, *], activations.
        other: As a row of active.
        transposed, last: Scratch memory, see weight_gradient().
        loss_sum: [1]; the mean weighted loss is added.
        double: Whether the online network selects the next action.
        dueling: 1 or 0, the output rows before those of the actions.
        scale: Factor of observations.
        slope, bend: The loss is slope / 2 * error^2 for errors within bend of 0, linear beyond.
    """
    loss = 0.0
    output = layers[-1, OUTPUT]
    of_actions = output + dueling * BLOCK
    num_actions = layers[-1, OUT] - dueling
    best = np.empty(BLOCK, np.int64)
    for block in range(len(active)):
        first, x = block * BLOCK, active[block]
        size = min(BLOCK, len(action) - first)
        load_block(next_obs, first, size, scale, other)
        if double:
            through_layers(layers, weights, other)
            centre(other[output:], num_actions, dueling)
            select_greedy(other[of_actions:], num_actions, next_mask, first, size, best)
        through_layers(layers, target_weights, other)
        centre(other[output:], num_actions, dueling)
        if not double:
            select_greedy(other[of_actions:], num_actions, next_mask, first, size, best)
        load_block(obs, first, size, scale, x)
        through_layers(layers, weights, x)
        centre(x[output:], num_actions, dueling)
        loss += _compare(
            x[output:], other[of_actions:], best, first, size, num_actions, dueling,
            action, reward, discount, weight, priority, taken, slope, bend,
        )  # fmt: skip
    loss_sum[0] += np.float32(loss / len(action))
    backpropagate(layers, weights, active, transposed, last, gradient)
    descend(weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm)


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
        bent = clip_error(error, bend)
        loss += slope * bent * (error - np.float32(0.5) * bent) * weight[b]
        share = -slope * bent * weight[b] / np.float32(len(action))
        _spread(q, s, num_actions, dueling, action[b], share)
    for row in range(dueling + num_actions):
        q[row * BLOCK + size : (row + 1) * BLOCK] = 0.0
    return loss


@ieee_kernel
def clip_error(error, bend):
    """Clips an error to +-bend, beyond which the loss is linear; NaN stays NaN."""
    if error > bend:
        return bend
    return -bend if error < -bend else error


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
def backpropagate(layers, weights, x, transposed, last, gradient):
    """Backpropagates the gradients of the outputs in x, float32[blocks, *], in place.

    Writes the gradients of all weights and biases to gradient [P]. Args not listed are those of
    weight_gradient().
    """
    for n in range(len(layers) - 1, -1, -1):
        weight_gradient(layers[n], x, transposed, last, gradient)
        features = layers[n, IN]
        for block in range(len(x) if layers[n, INNER] else 0):
            product_through_relu(
                x[block], layers[n, INPUT], BLOCK, weights, layers[n, WEIGHTS], 1, features,
                x[block], layers[n, OUTPUT], BLOCK, features, layers[n, OUT], weights, 0,
                np.float32(0.0),
            )  # fmt: skip


@ieee_kernel
def weight_gradient(layer, x, transposed, last, gradient):
    """Writes the gradient of a layer's weights and biases to its place in gradient [P].

    Args:
        layer: int64[8], see above.
        x: float32[blocks, *], inputs, and the gradients of outputs.
        transposed: float32[blocks * BLOCK * COLUMNS], scratch memory.
        last: float32[LAST_ROWS * COLUMNS], scratch memory.
        gradient: float32[P].
    """
    begin, features, outputs = layer[INPUT], layer[IN], layer[OUT]
    delta, at = layer[OUTPUT], layer[WEIGHTS]
    for o in range(outputs):
        gradient[layer[BIAS] + o] = _sum_over_batch(x, delta + o * BLOCK)
    if min(features, outputs) <= _THIN:
        for o in range(outputs):
            for i in range(features):
                dot = _dot_over_batch(x, delta + o * BLOCK, begin + i * BLOCK)
                gradient[at + o * features + i] = dot
        return
    # The last tile of a row may reach into the next rows, which are written after it. So the last
    # columns come first. The last rows, behind which another tensor begins, are copied.
    for i in range((features - 1) // COLUMNS * COLUMNS, -1, -COLUMNS):
        columns = min(COLUMNS, features - i)
        _transpose(x, begin + i * BLOCK, columns, transposed)
        copied = min(outputs, (COLUMNS - columns + features - 1) // features)
        rows = outputs - copied
        product_of_blocks(
            gradient, at + i, features, x, delta, BLOCK, x.shape[1],
            transposed, 0, COLUMNS, rows, len(x) * BLOCK, x, 0, np.float32(0.0),
        )  # fmt: skip
        if copied > 0:
            product_of_blocks(
                last, 0, COLUMNS, x, delta + rows * BLOCK, BLOCK, x.shape[1],
                transposed, 0, COLUMNS, copied, len(x) * BLOCK, x, 0, np.float32(0.0),
            )  # fmt: skip
            for o in range(copied):
                row = at + (rows + o) * features + i
                for j in range(columns):  # a slice takes a second longer to compile
                    gradient[row + j] = last[o * COLUMNS + j]


@ieee_kernel
def _sum_over_batch(x, row):
    """Returns the sum of a row of x, float32[blocks, *], over all samples."""
    total = splat(np.float32(0.0))
    for first in range(row, x.size, x.shape[1]):
        for s in range(first, first + BLOCK, LANES):
            total += load(x, s)
    return sum_of_lanes(total)


@ieee_kernel
def _dot_over_batch(x, row, other):
    """Returns the sum of the products of two rows of x, float32[blocks, *], over all samples."""
    total = splat(np.float32(0.0))
    for first in range(0, x.size, x.shape[1]):
        for s in range(first, first + BLOCK, LANES):
            total = multiply_add(load(x, row + s), load(x, other + s), total)
    return sum_of_lanes(total)


@ieee_kernel
def _transpose(x, begin, rows, transposed):
    """Transposes rows of all blocks to transposed [blocks * BLOCK, COLUMNS]."""
    for block in range(len(x)):
        for s in range(0, BLOCK, LANES):
            to = (block * BLOCK + s) * COLUMNS
            for row in range(0, rows, LANES):
                source = block * x.shape[1] + begin + row * BLOCK + s
                transpose_tile(transposed, to + row, COLUMNS, x, source, BLOCK)


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
def descend(weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm):
    """Clips the gradient's norm if max_norm > 0, and takes one step of Adam; all [P], in place."""
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
        gradient[i], exp_avg[i], exp_avg_sq[i] = slope, average, square
        weights[i] -= step * average / (np.sqrt(square) * root + small)
