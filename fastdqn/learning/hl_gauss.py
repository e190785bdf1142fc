"""HLGaussValue: expected returns learned by classification of a Gaussian histogram (HL-Gauss)."""

import math
from typing import Self

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.quantile import quantile_target
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import SampleLoss, Value, check_range, of_action


class HLGaussValue(Value):
    """Network output [B, Z, A]: logits of Z equal bins between v_min and v_max for each action.

    The value of an action is the expectation of the bin centers. The TD target is a number, as with
    ScalarValue. The loss turns it into a Gaussian around it, as a histogram over the same bins, and
    is the Kullback-Leibler divergence from that histogram to the prediction. It has the gradient of
    the cross entropy and is 0 if both agree. The priority is the absolute TD error.

    A target outside the range is clamped for the histogram, but not for the priority. The mass of
    the Gaussian outside the range is distributed over all bins, so values within about two standard
    deviations of v_min or v_max are biased inwards.

    Source: Farebrother et al. 2024 (arXiv 2403.03950), section 3.1.

    Args:
        num_atoms: Z, the number of bins.
        v_min: Lower edge of the first bin, in units of return.
        v_max: Upper edge of the last bin.
        hl_gauss_sigma: Standard deviation of the Gaussian in bin widths; the paper's default.

    Attributes:
        centers: float32[Z], centers of the bins, in units of return.
        edges: float32[Z + 1], edges of the bins, in bin widths above v_min.

    Raises:
        ValueError: There are fewer than 2 bins, the range is empty, or sigma is not above 0.
    """

    takes_bonus = True

    def __init__(self, num_atoms: int, v_min: float, v_max: float, hl_gauss_sigma: float = 0.75):
        check_range(num_atoms, v_min, v_max)
        if not hl_gauss_sigma > 0.0:
            raise ValueError(f"hl_gauss_sigma is {hl_gauss_sigma}, must be above 0")
        self.outputs_per_action: int | None = num_atoms
        self.bounds: tuple[float, float] | None = (v_min, v_max)
        self._v_min, self._width = v_min, (v_max - v_min) / num_atoms
        self._spread = math.sqrt(2.0) * hl_gauss_sigma  # erf is the CDF of a variance of 1/2
        self.scale = self._v_min, self._width, self._spread
        self.edges = torch.arange(num_atoms + 1, dtype=torch.float32)
        self.centers = v_min + self._width * (self.edges[:-1] + 0.5)

    def to(self, device: torch.device) -> Self:
        """Moves the constants to a device. Returns self."""
        self.edges, self.centers = self.edges.to(device), self.centers.to(device)
        return self

    def expected(self, output: Tensor) -> Tensor:
        return self.centers @ output.softmax(1)  # [Z] @ [B, Z, A] to [B, A]

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Returns the TD targets [B], which may be outside the range."""
        value = self.expected(next_output).unsqueeze(1)  # one sample of the return, [B, 1, A]
        return quantile_target(value, bootstrap, reward, discount).squeeze(1)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        log_probs = of_action(output, action).log_softmax(1)  # [B, Z]
        probs = self.histogram(target)
        divergence = (torch.xlogy(probs, probs) - probs * log_probs).sum(1)
        taken = log_probs.exp() @ self.centers
        return SampleLoss(divergence, (target - taken.detach()).abs(), taken)

    def histogram(self, target: Tensor) -> Tensor:
        """Returns the probabilities of the bins [B, Z] for targets [B]; rows sum to 1."""
        # Clamped first: far outside, all bins would have mass 0.
        place = ((target - self._v_min) / self._width).clamp(0, len(self.centers))
        below = torch.erf((self.edges - place.unsqueeze(1)) / self._spread)  # [B, Z + 1]
        return below.diff(dim=1) / (below[:, -1:] - below[:, :1])
