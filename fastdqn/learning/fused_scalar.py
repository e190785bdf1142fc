"""Scalar values of the fused learner: targets, loss and gradient of a batch, as kernels."""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.learning.fused_kernel import BLOCK, clip_error
from fastdqn.learning.fused_learner import LOSSES
from fastdqn.learning.fused_passes import spread
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import ScalarValue


class FusedScalar:
    """ScalarValue in the fused learner.

    Args:
        value: The value of the learner.
        num_actions: A.
        dueling: D, the rows of outputs before those of the actions.

    Raises:
        ValueError: The loss is not supported.
    """

    def __init__(self, value: ScalarValue, num_actions: int, dueling: int):
        loss: Any = value.element_loss
        if loss not in LOSSES:
            raise ValueError("the fused update supports the losses mse and huber only")
        self._loss = tuple(map(np.float32, LOSSES[loss]))
        self._shape = num_actions, dueling

    def allocate(self, blocks: int) -> None:
        """Allocates memory for a batch of this many blocks."""
        self._target = np.zeros((blocks, BLOCK), np.float32)

    def expected(self, outputs: np.ndarray, values: np.ndarray) -> None:
        """Writes expected returns [blocks, A * BLOCK] from outputs [blocks, *]."""
        dueling = self._shape[1]
        values[:] = outputs[:, dueling * BLOCK : (dueling + self._shape[0]) * BLOCK]

    def aim(self, outputs, best, shares, entropy, bonus, reward, discount) -> None:
        """Computes the targets from the target network's outputs at next_obs."""
        scalar_targets(
            outputs, shares, entropy, bonus, reward, discount, *self._shape, self._target
        )

    def compare(self, outputs, action, weight, draw: Draw, priority, taken) -> float:
        """Returns the weighted loss, and replaces the outputs at obs by gradients.

        draw holds the random inputs of the pass at obs.
        """
        return scalar_losses(
            outputs, self._target, action, weight, *self._shape, *self._loss, priority, taken
        )


@ieee_kernel
def scalar_targets(
    outputs, shares, entropy, bonus, reward, discount, num_actions, dueling, target
):  # fmt: skip
    """Writes reward + bonus + discount * (sum of shares * values + entropy), [blocks, BLOCK]."""
    for block in range(len(outputs)):
        first = block * BLOCK
        for s in range(min(BLOCK, len(reward) - first)):
            following = entropy[block, s]
            for a in range(num_actions):
                share = shares[block, a * BLOCK + s]
                if share != 0.0:
                    following += share * outputs[block, (dueling + a) * BLOCK + s]
            b = first + s
            target[block, s] = reward[b] + bonus[block, s] + discount[b] * following


@ieee_kernel
def scalar_losses(
    outputs, target, action, weight, num_actions, dueling, slope, bend, priority, taken
):  # fmt: skip
    """Returns the sum of weighted losses, and replaces outputs by the mean loss's gradient."""
    loss, share = 0.0, np.zeros(BLOCK, np.float32)
    for block in range(len(outputs)):
        first = block * BLOCK
        size = min(BLOCK, len(action) - first)
        for s in range(size):
            b = first + s
            value = outputs[block, (dueling + action[b]) * BLOCK + s]
            error = target[block, s] - value
            priority[b], taken[b] = abs(error), value
            bent = clip_error(error, bend)
            loss += slope * bent * (error - np.float32(0.5) * bent) * weight[b]
            share[s] = -slope * bent * weight[b] / np.float32(len(action))
            spread(outputs[block], 0, s, num_actions, dueling, action[b], share, 1)
        for row in range(dueling + num_actions):
            outputs[block, row * BLOCK + size : (row + 1) * BLOCK] = 0.0
    return loss
