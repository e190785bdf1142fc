"""HL-Gauss values of the fused learner: targets, loss and gradient of a batch, as kernels."""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vector_math import erf32
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning.fused_categorical import categorical_losses, expected_of_batch
from fastdqn.learning.fused_kernel import BLOCK
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.random_inputs import Draw

_ZERO = np.float32(0.0)


class FusedHLGauss:
    """HLGaussValue in the fused learner. Arguments and methods are those of FusedScalar."""

    def __init__(self, value: HLGaussValue, num_actions: int, dueling: int):
        self._centers, self._shape = value.centers.numpy(), (num_actions, dueling)
        self._scale = tuple(map(np.float32, value.scale))

    def allocate(self, blocks: int) -> None:
        size, num_actions = len(self._centers) * BLOCK, self._shape[0]
        self._histogram = np.zeros((blocks, size), np.float32)
        self._probs, self._sums = np.zeros(size, np.float32), np.zeros(5 * BLOCK, np.float32)
        self._actions = np.zeros(BLOCK, np.int64)
        self._values = np.zeros((blocks, num_actions * BLOCK), np.float32)
        self._target = np.zeros((blocks, BLOCK), np.float32)

    def expected(self, outputs: np.ndarray, values: np.ndarray) -> None:
        expected_of_batch(outputs, self._centers, *self._shape, values)

    def aim(self, outputs, best, shares, entropy, bonus, reward, discount) -> None:
        self.expected(outputs, self._values)
        gaussian_targets(
            self._values, shares, entropy, bonus, reward, discount, self._shape[0], *self._scale,
            self._target, self._histogram,
        )  # fmt: skip

    def compare(self, outputs, action, weight, draw: Draw, priority, taken) -> float:
        loss = categorical_losses(
            outputs, self._histogram, self._centers, action, weight, *self._shape, self._probs,
            self._actions, self._sums, priority, taken,
        )  # fmt: skip
        priority[:] = np.abs(self._target.reshape(-1)[: len(taken)] - taken)
        return loss


@ieee_kernel
def gaussian_targets(
    values, shares, entropy, bonus, reward, discount, num_actions, v_min, width, spread, target,
    histogram,
):  # fmt: skip
    """Writes TD targets [blocks, BLOCK], and their Gaussians over bins [blocks, Z * BLOCK].

    Args:
        values: float32[blocks, A * BLOCK], expected returns at next_obs.
        shares, entropy, bonus: As bootstrap_softly() writes them.
        reward, discount: float32[B].
        num_actions: A.
        v_min, width: The lower edge of the first bin, and the width of a bin.
        spread: sqrt(2) standard deviations, in bins.
        target, histogram: Outputs.
    """
    bins = histogram.shape[1] // BLOCK
    place = np.zeros(BLOCK, np.float32)
    for block in range(len(values)):
        for s in range(BLOCK):
            b, following = block * BLOCK + s, entropy[block, s]
            for a in range(num_actions):
                share = shares[block, a * BLOCK + s]
                if share != 0.0:
                    following += share * values[block, a * BLOCK + s]
            aim = (
                reward[b] + bonus[block, s] + discount[b] * following if b < len(reward) else v_min
            )
            target[block, s] = aim
            aim = (aim - v_min) / width
            aim = np.float32(bins) if aim > np.float32(bins) else aim
            place[s] = _ZERO if aim < _ZERO else aim
        for s in range(0, BLOCK, LANES):
            center = load(place, s)
            first = erf32((splat(_ZERO) - center) / spread)
            mass = erf32((splat(np.float32(bins)) - center) / spread) - first
            below = first
            for z in range(bins):
                above = erf32((splat(np.float32(z + 1)) - center) / spread)
                share = (above - below) / mass
                store(histogram[block], z * BLOCK + s, select(share < _ZERO, _ZERO, share))
                below = above
