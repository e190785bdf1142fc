"""QuantileValue: quantiles of the return at fixed, evenly spaced fractions (QR-DQN)."""

from typing import Self

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import SampleLoss, Value, of_action


class QuantileValue(Value):
    """Network output [B, M, A]: M quantiles of each action's return.

    The loss is also the priority.

    Source: Dabney et al. 2018 (arXiv 1710.10044).

    Args:
        num_quantiles: M.

    Attributes:
        fractions: float32[M], see midpoints().
    """

    def __init__(self, num_quantiles: int):
        self.outputs_per_action = num_quantiles
        self.fractions = midpoints(num_quantiles, torch.device("cpu"))

    def to(self, device: torch.device) -> Self:
        self.fractions = self.fractions.to(device)
        return self

    def expected(self, output: Tensor) -> Tensor:
        return output.mean(1)

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        return quantile_target(next_output, bootstrap, reward, discount)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        quantiles = of_action(output, action)  # [B, M]
        loss = quantile_huber(quantiles, target, self.fractions)
        return SampleLoss(loss, loss.detach(), quantiles.mean(1))


def midpoints(count: int, device: torch.device) -> Tensor:
    """Returns float32[count], the midpoints of count equal parts of [0, 1].

    At these fractions the quantiles have the smallest 1-Wasserstein distance to the distribution.
    Source: Dabney et al. 2018 (arXiv 1710.10044), Lemma 2.
    """
    return (torch.arange(count, device=device) + 0.5) / count


def quantile_target(
    next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
) -> Tensor:
    """Returns [B, M] samples of the target return, one for each quantile of the next state.

    Args:
        next_output: [B, M, A], averaged over actions by bootstrap.expectation().
        bootstrap: The actions to bootstrap from.
        reward: [B], the n-step return.
        discount: [B], gamma^m; 0 after termination.
    """
    samples = bootstrap.expectation(next_output)  # [B, M]
    if bootstrap.entropy is not None:
        samples = samples + bootstrap.entropy.unsqueeze(1)
    if bootstrap.bonus is not None:
        reward = reward + bootstrap.bonus
    return torch.addcmul(reward.unsqueeze(1), discount.unsqueeze(1), samples)


def quantile_huber(prediction: Tensor, target: Tensor, fractions: Tensor) -> Tensor:
    """Returns [B], the quantile regression loss with a Huber threshold of 1.

    It is summed over quantiles and averaged over samples.

    Source: Dabney et al. 2018 (arXiv 1710.10044), equation 10, kappa = 1.

    Args:
        prediction: [B, M], quantiles.
        target: [B, M'], samples of the return.
        fractions: [M] or [B, M].
    """
    error = target.unsqueeze(1) - prediction.unsqueeze(2)  # [B, M, M']
    size = error.abs()
    huber = torch.where(size <= 1.0, 0.5 * error.square(), size - 0.5)
    side = (fractions.unsqueeze(-1) - (error.detach() < 0).to(error.dtype)).abs()
    return (side * huber).mean(2).sum(1)
