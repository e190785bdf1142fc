"""Quantile values of the fused learner: targets, loss and gradient of a batch, as kernels."""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning.fused_categorical import gather, spread
from fastdqn.learning.fused_kernel import BLOCK
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import Draw

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class FusedQuantile:
    """QuantileValue in the fused learner. Arguments and methods are those of FusedScalar."""

    def __init__(self, value: QuantileValue, num_actions: int, dueling: int):
        self._num_quantiles, self._shape = len(value.fractions), (num_actions, dueling)
        self._of_block = np.repeat(value.fractions.numpy(), BLOCK)

    def allocate(self, blocks: int) -> None:
        size = len(self._of_block)
        self._fractions = np.tile(self._of_block, (blocks, 1))
        self._target, self._chosen = (
            np.zeros((blocks, size), np.float32),
            np.zeros(size, np.float32),
        )
        self._sums = np.zeros(3 * BLOCK, np.float32)
        self._actions = np.zeros(BLOCK, np.int64)

    def expected(self, outputs: np.ndarray, values: np.ndarray) -> None:
        mean_quantiles(outputs, self._num_quantiles, *self._shape, values)

    def aim(self, outputs, best, shares, entropy, bonus, reward, discount) -> None:
        quantile_targets(
            outputs, shares, entropy, bonus, reward, discount, self._num_quantiles, *self._shape,
            self._target,
        )  # fmt: skip

    def compare(self, outputs, action, weight, draw: Draw, priority, taken) -> float:
        return quantile_losses(
            outputs, self._target, self._fractions, action, weight, *self._shape, self._chosen,
            self._actions, self._sums, priority, taken,
        )  # fmt: skip


@ieee_kernel
def mean_quantiles(outputs, per_action, num_actions, dueling, values):
    """Writes the mean of the quantiles of each action, [blocks, A * BLOCK]."""
    stride, share = (dueling + num_actions) * BLOCK, _ONE / np.float32(per_action)
    for block in range(len(outputs)):
        for a in range(num_actions):
            for s in range(0, BLOCK, LANES):
                total = splat(_ZERO)
                for z in range(per_action):
                    total += load(outputs[block], z * stride + (dueling + a) * BLOCK + s)
                store(values[block], a * BLOCK + s, total * share)


@ieee_kernel
def quantile_targets(
    outputs, shares, entropy, bonus, reward, discount, per_action, num_actions, dueling, target
):  # fmt: skip
    """Writes samples of the target return, [blocks, M * BLOCK], one for each quantile."""
    stride = (dueling + num_actions) * BLOCK
    moved = np.zeros(2 * BLOCK, np.float32)
    for block in range(len(outputs)):
        first = block * BLOCK
        for s in range(BLOCK):
            here = first + s < len(reward)
            moved[s] = reward[first + s] + bonus[block, s] if here else _ZERO
            moved[BLOCK + s] = discount[first + s] if here else _ZERO
        for z in range(per_action):
            for s in range(0, BLOCK, LANES):
                sample = load(entropy[block], s)
                for a in range(num_actions):
                    share = load(shares[block], a * BLOCK + s)
                    value = load(outputs[block], z * stride + (dueling + a) * BLOCK + s)
                    sample += select(share == _ZERO, _ZERO, share * value)
                sample = load(moved, s) + load(moved, BLOCK + s) * sample
                store(target[block], z * BLOCK + s, sample)


@ieee_kernel
def quantile_losses(
    outputs, target, fractions, action, weight, num_actions, dueling, chosen, actions, sums,
    priority, taken,
):  # fmt: skip
    """Returns the sum of weighted losses, and replaces outputs by the mean loss's gradient.

    Args:
        outputs: float32[blocks, *], [M, D + A, BLOCK] flat in each.
        target: float32[blocks, M' * BLOCK], samples of the return.
        fractions: float32[blocks, M * BLOCK], the fraction of each quantile.
        action, weight: As in Batch.
        num_actions, dueling: A and D.
        chosen, actions, sums: Scratch memory.
        priority, taken: float32[B], outputs.
    """
    count, targets, loss = fractions.shape[1] // BLOCK, target.shape[1] // BLOCK, 0.0
    each, of_mean = _ONE / np.float32(targets), _ONE / np.float32(count)
    for block in range(len(outputs)):
        first = block * BLOCK
        size = min(BLOCK, len(action) - first)
        for s in range(BLOCK):
            actions[s] = action[first + s] if s < size else 0
            sums[2 * BLOCK + s] = weight[first + s] / np.float32(len(action)) if s < size else _ZERO
        gather(outputs[block], actions, count, num_actions, dueling, chosen)
        for s in range(0, BLOCK, LANES):
            total, mean, share = splat(_ZERO), splat(_ZERO), load(sums, 2 * BLOCK + s)
            for i in range(count):
                quantile, above = load(chosen, i * BLOCK + s), load(fractions[block], i * BLOCK + s)
                below = _ONE - above
                of_loss, slope = splat(_ZERO), splat(_ZERO)
                for j in range(targets):
                    error = load(target[block], j * BLOCK + s) - quantile
                    side = select(error < _ZERO, below, above)
                    bent = select(error > _ONE, _ONE, error)
                    bent = select(error < -_ONE, -_ONE, bent)
                    slope += side * bent
                    of_loss += side * bent * (error - _HALF * bent)
                total += of_loss
                mean += quantile
                store(chosen, i * BLOCK + s, slope * -(each * share))
            store(sums, s, total * each)
            store(sums, BLOCK + s, mean * of_mean)
        spread(chosen, actions, size, count, num_actions, dueling, outputs[block])
        for s in range(size):
            loss += sums[s] * weight[first + s]
            priority[first + s], taken[first + s] = sums[s], sums[BLOCK + s]
    return loss
