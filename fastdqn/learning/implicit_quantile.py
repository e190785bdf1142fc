"""Implicit quantiles (IQN): the quantile fractions are inputs of the network."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.learning.bootstrap_targets import Backup, Bootstrap
from fastdqn.learning.quantile import midpoints, quantile_huber, quantile_target
from fastdqn.learning.random_inputs import MEANS, Draw
from fastdqn.learning.value import SampleLoss, Value, of_action

# Cosines of the embedding: Dabney et al. 2018 (arXiv 1806.06923), section 4.
NUM_COSINES = 64


class ImplicitHead(nn.Module):
    """Wraps a head; features are multiplied by an embedding of each fraction.

    Source: Dabney et al. 2018 (arXiv 1806.06923), equation 4.

    Args:
        num_features: F.
        head: The inner head, from [B, M, F] to [B, M, A].
        num_fractions: K evenly spaced fractions for passes without random ones.
    """

    frequencies: Tensor  # [64] pi * i
    spaced: Tensor  # [K]

    def __init__(self, num_features: int, head: nn.Module, num_fractions: int):
        super().__init__()
        self.embedding = nn.Linear(NUM_COSINES, num_features)
        self.head = head
        # On the CPU, since arange() on the meta device imports the compiler.
        frequencies = math.pi * torch.arange(float(NUM_COSINES), device="cpu")
        self.register_buffer("frequencies", frequencies, False)
        self.register_buffer("spaced", midpoints(num_fractions, torch.device("cpu")), False)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        fractions = draw.fractions
        if fractions is None:
            fractions = self.spaced.unsqueeze(0)  # one embedding for all samples
        cosines = torch.cos(fractions.unsqueeze(2) * self.frequencies)  # [B or 1, M, 64]
        embedded = functional.relu(self.embedding(cosines))  # [B or 1, M, F]
        return self.head(features.unsqueeze(1) * embedded, draw)


class ImplicitQuantileValue(Value):
    """Network output [B, M, A]: quantiles of each action's return at M fractions.

    The loss is also the priority.

    Source: Dabney et al. 2018 (arXiv 1806.06923), equations 2 and 3.

    Args:
        num_target_fractions: N', the first fractions of a pass at next_obs, used for the target.
        num_policy_fractions: K, the last fractions of a pass, used to select actions.
        num_fractions: N, the fractions of a pass at obs.
    """

    def __init__(
        self, num_target_fractions: int, num_policy_fractions: int, num_fractions: int = 8
    ):
        self._num_target, self._num_policy = num_target_fractions, num_policy_fractions
        self._num_fractions = num_fractions
        self.counts = num_target_fractions, num_policy_fractions, num_fractions

    def wrap_head(self, num_features: int, head: nn.Module) -> nn.Module:
        return ImplicitHead(num_features, head, self._num_policy)

    def fractions_of_passes(self, backup: Backup) -> tuple[int, int, int, int]:
        return (
            self._num_fractions,
            self._num_target + self._num_policy * backup.asks_target_next,
            self._num_policy * backup.asks_online_next,
            self._num_policy * backup.asks_target_obs,
        )

    def expected(self, output: Tensor) -> Tensor:
        return output[:, -self._num_policy :].mean(1)

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        return quantile_target(next_output[:, : self._num_target], bootstrap, reward, discount)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        assert draw.fractions is not None
        quantiles = of_action(output, action)  # [B, M]
        loss = quantile_huber(quantiles, target, draw.fractions)
        return SampleLoss(loss, loss.detach(), quantiles.mean(1))
