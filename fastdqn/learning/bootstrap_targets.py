"""Backups: select the actions to bootstrap from, and may add a bonus to the reward."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Queries(NamedTuple):
    """Inputs of a backup; those that need a forward pass are functions.

    Attributes:
        target_next: Returns [B, A], values of the target network at next_obs.
        online_next: Returns [B, A], values of the online network at next_obs.
        target_obs: Returns [B, A], values of the target network at obs.
        action: int64[B], the actions taken at obs.
        next_mask: bool[B, A], actions allowed at next_obs; None allows all.
        mask: bool[B, A], actions allowed at obs; None allows all.
    """

    target_next: Callable[[], Tensor]
    online_next: Callable[[], Tensor]
    target_obs: Callable[[], Tensor]
    action: Tensor
    next_mask: Tensor | None
    mask: Tensor | None


class Bootstrap:
    """The mixture of actions to bootstrap from.

    Attributes:
        action_weights: float32[B, A], rows sum to 1.
        entropy: float32[B], added to the bootstrap value, or None.
        bonus: float32[B], added to the reward, or None.
    """

    def __init__(
        self,
        action_weights: Tensor,
        entropy: Tensor | None = None,
        bonus: Tensor | None = None,
    ):
        self._weights = action_weights
        self.entropy, self.bonus = entropy, bonus

    @property
    def action_weights(self) -> Tensor:
        return self._weights

    def expectation(self, output: Tensor) -> Tensor:
        """Averages output [B, A] or [B, Z, A] over actions, to [B] or [B, Z]."""
        weights = self.action_weights
        return (output * (weights if output.ndim == 2 else weights.unsqueeze(1))).sum(-1)


class GreedyBootstrap(Bootstrap):
    """A single action for each sample, which is selected without multiplying by zeros.

    Args:
        values: [B, A], of which the largest is the action; -inf where an action is not allowed.
    """

    def __init__(self, values: Tensor):
        self._values, self._action = values, values.argmax(1, keepdim=True)
        self.entropy = self.bonus = None

    @property
    def action_weights(self) -> Tensor:
        # Not one_hot(), which syncs with the device.
        return torch.zeros_like(self._values).scatter_(1, self._action, 1.0)

    def expectation(self, output: Tensor) -> Tensor:
        if output.ndim == 2:
            return output.gather(1, self._action).squeeze(1)
        index = self._action.unsqueeze(1).expand(-1, output.shape[1], 1)
        return output.gather(2, index).squeeze(2)


class Backup(Protocol):
    """Computes a Bootstrap; its flags declare which queries it may call.

    Random inputs of the forward passes are drawn for these only.
    """

    asks_target_next: bool = False
    asks_online_next: bool = False
    asks_target_obs: bool = False

    def __call__(self, queries: Queries) -> Bootstrap: ...


class MaxBackup:
    """Q-learning: the target network selects and evaluates (Mnih et al. 2015)."""

    asks_target_next, asks_online_next, asks_target_obs = True, False, False

    def __call__(self, queries: Queries) -> Bootstrap:
        return GreedyBootstrap(_allowed(queries.target_next(), queries.next_mask))


class DoubleBackup:
    """Double Q-learning: the online network selects, the target network evaluates.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), equation 4.
    """

    asks_target_next, asks_online_next, asks_target_obs = False, True, False

    def __call__(self, queries: Queries) -> Bootstrap:
        return GreedyBootstrap(_allowed(queries.online_next(), queries.next_mask))


def _allowed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns values [B, A], -inf where an action is not allowed."""
    return values if mask is None else values.masked_fill(~mask, -torch.inf)
