"""QuantileValue: the return's quantiles at fixed, evenly spaced fractions (QR-DQN)."""

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import SampleLoss, of_action


class QuantileValue:
    """Output [B, M, A] holds M quantiles of each action's return.

    fractions  [M] float32: midpoints of M equal shares, see midpoints()

    The loss is the priority too. Dabney et al. 2018 (arXiv 1710.10044).
    """

    def __init__(self, fractions: Tensor):
        self.fractions = fractions

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
    """The middles of count equal shares of [0, 1]: [count] float32.

    Dabney et al. 2018 (arXiv 1710.10044), Lemma 2: there quantiles are nearest to the
    distribution in the 1-Wasserstein metric.
    """
    return (torch.arange(count, device=device) + 0.5) / count


def quantile_target(
    next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
) -> Tensor:
    """Samples [B, M] of the return: each quantile, mixed over the actions, one Bellman step on.

    next_output  [B, M, A]; reward [B] n-step return; discount [B] gamma^m, 0 after termination
    """
    samples = (next_output * bootstrap.action_weights.unsqueeze(1)).sum(2)  # [B, M]
    if bootstrap.entropy is not None:
        samples = samples + bootstrap.entropy.unsqueeze(1)
    if bootstrap.bonus is not None:
        reward = reward + bootstrap.bonus
    return torch.addcmul(reward.unsqueeze(1), discount.unsqueeze(1), samples)


def quantile_huber(prediction: Tensor, target: Tensor, fractions: Tensor) -> Tensor:
    """Quantile regression with Huber's loss within 1 of each target: [B].

    prediction  [B, M] quantiles at fractions [M] or [B, M]; target [B, M'] samples of the return
    Summed over the quantiles, averaged over the samples.
    Dabney et al. 2018 (arXiv 1710.10044), equation 10, kappa = 1.
    """
    error = target.unsqueeze(1) - prediction.unsqueeze(2)  # [B, M, M']
    size = error.abs()
    huber = torch.where(size <= 1.0, 0.5 * error.square(), size - 0.5)
    side = (fractions.unsqueeze(-1) - (error.detach() < 0).to(error.dtype)).abs()
    return (side * huber).mean(2).sum(1)
