"""C51's targets, loss and gradient for a block of samples, as kernels of the fused learner.

The slow equivalent is CategoricalValue. Outputs are float32[Z * (D + A) * BLOCK]: for each of Z
atoms the value stream if D = 1 (dueling), then A actions, in the order of the heads. Each row holds
BLOCK samples. Logits of one action are gathered to [Z, BLOCK], where all work is on vectors.
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vector_math import BLOCK, exp32, log32, log_softmax_block, softmax_block
from fastdqn.kernels.vectors import floor, load, select, splat, store
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.random_inputs import Draw

_ZERO = np.float32(0.0)


class FusedCategorical:
    """CategoricalValue in the fused learner. Arguments and methods are those of FusedScalar."""

    def __init__(self, value: CategoricalValue, num_actions: int, dueling: int):
        self._atoms, self._shape = value.atoms.numpy(), (num_actions, dueling)

    def allocate(self, blocks: int) -> None:
        size = len(self._atoms) * BLOCK
        self._target, self._probs = np.zeros((blocks, size), np.float32), np.zeros(size, np.float32)
        self._moved = np.zeros(5 * BLOCK, np.float32)
        self._actions = np.zeros(BLOCK, np.int64)

    def expected(self, outputs: np.ndarray, values: np.ndarray) -> None:
        expected_of_batch(outputs, self._atoms, *self._shape, values)

    def aim(self, outputs, best, shares, entropy, bonus, reward, discount) -> None:
        categorical_targets(
            outputs, best, self._atoms, reward, discount, *self._shape, self._probs, self._moved,
            self._target,
        )  # fmt: skip

    def compare(self, outputs, action, weight, draw: Draw, priority, taken) -> float:
        return categorical_losses(
            outputs, self._target, self._atoms, action, weight, *self._shape, self._probs,
            self._actions, self._moved, priority, taken,
        )  # fmt: skip


@ieee_kernel
def expected_of_batch(outputs, atoms, num_actions, dueling, values):
    """Writes the expected returns of all blocks, [blocks, A * BLOCK]."""
    for block in range(len(outputs)):
        expected_returns(outputs[block], atoms, num_actions, dueling, values[block])


@ieee_kernel
def categorical_targets(
    outputs, best, atoms, reward, discount, num_actions, dueling, probs, moved, target
):  # fmt: skip
    """Writes the target distributions of all blocks, [blocks, Z * BLOCK]."""
    for block in range(len(outputs)):
        size = min(BLOCK, len(reward) - block * BLOCK)
        project_best(
            outputs[block], best[block], block * BLOCK, size, atoms, reward, discount, num_actions,
            dueling, probs, moved, target[block],
        )  # fmt: skip


@ieee_kernel
def categorical_losses(
    outputs, target, atoms, action, weight, num_actions, dueling, log_probs, actions, sums,
    priority, taken,
):  # fmt: skip
    """Returns the sum of weighted losses, and replaces outputs by the mean loss's gradient."""
    loss = 0.0
    for block in range(len(outputs)):
        size = min(BLOCK, len(action) - block * BLOCK)
        loss += compare_distributions(
            outputs[block], target[block], block * BLOCK, size, atoms, action, weight, num_actions,
            dueling, log_probs, actions, sums, priority, taken,
        )  # fmt: skip
    return loss


@ieee_kernel
def expected_returns(q, atoms, num_actions, dueling, values):
    """Writes the expected return of each action to values, float32[A * BLOCK]."""
    stride = (dueling + num_actions) * BLOCK
    for a in range(num_actions):
        for s in range(0, BLOCK, LANES):
            first = (dueling + a) * BLOCK + s
            most = load(q, first)
            for z in range(1, len(atoms)):
                logit = load(q, first + z * stride)
                most = select(logit > most, logit, most)
            total, weighted = splat(_ZERO), splat(_ZERO)
            for z in range(len(atoms)):
                share = exp32(load(q, first + z * stride) - most)
                total += share
                weighted += share * atoms[z]
            store(values, a * BLOCK + s, weighted / total)


@ieee_kernel
def project_best(
    q, best, first, size, atoms, reward, discount, num_actions, dueling, probs, moved, target
):
    """Writes the projected target distribution of a block.

    Source: Bellemare et al. 2017 (arXiv 1707.06887), Algorithm 1. Samples from size on are as with
    reward and discount 0. A NaN in reward or discount makes the target NaN.

    Args:
        q: Outputs of the target network at next_obs, streams combined.
        best: int64[BLOCK], the actions to bootstrap from; 0 to A - 1 also from size on.
        first: First sample of the block in the batch.
        size: Number of samples, at most BLOCK.
        atoms: float32[Z], evenly spaced and ascending returns.
        reward, discount: float32[B].
        num_actions: A.
        dueling: D.
        probs: float32[Z * BLOCK], scratch memory.
        moved: float32[5 * BLOCK], scratch memory.
        target: float32[Z * BLOCK], the output.
    """
    last = len(atoms) - 1
    per_return = np.float32(last) / (atoms[last] - atoms[0])
    gather(q, best, len(atoms), num_actions, dueling, probs)
    softmax_block(probs, 0, BLOCK, len(atoms), probs, 0, BLOCK)
    for s in range(BLOCK):
        moved[3 * BLOCK + s] = reward[first + s] if s < size else _ZERO
        moved[4 * BLOCK + s] = discount[first + s] if s < size else _ZERO
    target[: len(atoms) * BLOCK] = _ZERO
    for z in range(len(atoms)):
        for s in range(0, BLOCK, LANES):
            mass = load(probs, z * BLOCK + s)
            place = load(moved, 3 * BLOCK + s) + load(moved, 4 * BLOCK + s) * atoms[z]
            place = (place - atoms[0]) * per_return
            place = select(place > np.float32(last), np.float32(last), place)
            place = select(place < _ZERO, _ZERO, place)
            lower = floor(place)
            above = (place - lower) * mass
            store(moved, s, mass - above)
            store(moved, BLOCK + s, above)
            store(moved, 2 * BLOCK + s, select(lower >= _ZERO, lower, _ZERO))  # NaN is no index
        for s in range(BLOCK):
            lower = np.uint64(np.int64(moved[2 * BLOCK + s]))
            upper = min(lower + np.uint64(1), np.uint64(last))
            target[lower * np.uint64(BLOCK) + np.uint64(s)] += moved[s]
            target[upper * np.uint64(BLOCK) + np.uint64(s)] += moved[BLOCK + s]


@ieee_kernel
def compare_distributions(
    q, target, first, size, atoms, action, weight, num_actions, dueling, log_probs, taken_actions,
    sums, priority, taken,
):  # fmt: skip
    """Returns the weighted loss of a block, and replaces outputs q by the mean loss's gradient.

    The loss is the Kullback-Leibler divergence from target to prediction, summed over samples. The
    gradient is divided by B, the size of the whole batch, and 0 from size on.

    Args:
        q: Outputs of the online network at obs, streams combined; overwritten.
        target: float32[Z * BLOCK], distributions.
        first: First sample of the block in the batch.
        size: Number of samples, at most BLOCK.
        atoms: float32[Z].
        action: int64[B].
        weight: float32[B].
        num_actions: A.
        dueling: D.
        log_probs: float32[Z * BLOCK], scratch memory.
        taken_actions: int64[BLOCK], scratch memory.
        sums: float32[3 * BLOCK], scratch memory.
        priority, taken: float32[B], outputs.
    """
    for s in range(BLOCK):
        taken_actions[s] = action[first + s] if s < size else 0
        sums[2 * BLOCK + s] = weight[first + s] / np.float32(len(action)) if s < size else _ZERO
    gather(q, taken_actions, len(atoms), num_actions, dueling, log_probs)
    log_softmax_block(log_probs, 0, BLOCK, len(atoms), log_probs, 0, BLOCK)
    for s in range(0, BLOCK, LANES):
        divergence, expected = splat(_ZERO), splat(_ZERO)
        share = load(sums, 2 * BLOCK + s)
        for z in range(len(atoms)):
            log_prob, of_target = load(log_probs, z * BLOCK + s), load(target, z * BLOCK + s)
            prob = exp32(log_prob)
            own = select(of_target == _ZERO, _ZERO, of_target * log32(of_target))
            divergence += own - of_target * log_prob
            expected += prob * atoms[z]
            store(log_probs, z * BLOCK + s, (prob - of_target) * share)
        store(sums, s, divergence)
        store(sums, BLOCK + s, expected)
    spread(log_probs, taken_actions, size, len(atoms), num_actions, dueling, q)
    loss = 0.0
    for s in range(size):
        divergence = sums[s]
        loss += divergence * weight[first + s]
        priority[first + s] = _ZERO if divergence < _ZERO else divergence  # NaN stays NaN
        taken[first + s] = sums[BLOCK + s]
    return loss


@ieee_kernel
def gather(q, action, num_atoms, num_actions, dueling, chosen):
    """Copies the logits of one action of each sample to chosen, [Z * BLOCK]."""
    for z in range(num_atoms):
        row = z * (dueling + num_actions) + dueling
        for s in range(BLOCK):
            chosen[z * BLOCK + s] = q[(row + action[s]) * BLOCK + s]


@ieee_kernel
def spread(chosen, action, size, num_atoms, num_actions, dueling, q):
    """Writes the gradient of all outputs from that of one action's logits, [Z * BLOCK]."""
    share = np.float32(-1.0) / np.float32(num_actions) if dueling else _ZERO
    for z in range(num_atoms):
        for s in range(size, BLOCK):
            chosen[z * BLOCK + s] = _ZERO
        first = z * (dueling + num_actions) * BLOCK
        for s in range(0, BLOCK, LANES):
            slope = load(chosen, z * BLOCK + s)
            rest = slope * share if dueling else splat(_ZERO)
            if dueling:
                store(q, first + s, slope)
            for a in range(dueling, dueling + num_actions):
                store(q, first + a * BLOCK + s, rest)
        for s in range(BLOCK):
            q[first + (dueling + action[s]) * BLOCK + s] += chosen[z * BLOCK + s]
