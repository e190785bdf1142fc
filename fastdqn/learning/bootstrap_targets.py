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


class Bootstrap(NamedTuple):
    """The mixture of actions to bootstrap from.

    Attributes:
        action_weights: float32[B, A], rows sum to 1.
        entropy: float32[B], added to the bootstrap value, or None.
        bonus: float32[B], added to the reward, or None.
    """

    action_weights: Tensor
    entropy: Tensor | None = None
    bonus: Tensor | None = None


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
        return Bootstrap(_one_hot_argmax(queries.target_next(), queries.next_mask))


class DoubleBackup:
    """Double Q-learning: the online network selects, the target network evaluates.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), equation 4.
    """

    asks_target_next, asks_online_next, asks_target_obs = False, True, False

    def __call__(self, queries: Queries) -> Bootstrap:
        return Bootstrap(_one_hot_argmax(queries.online_next(), queries.next_mask))


def _one_hot_argmax(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the one-hot argmax [B, A]; one_hot() is not used, since it syncs with the device."""
    if mask is not None:
        values = values.masked_fill(~mask, -torch.inf)
    return torch.zeros_like(values).scatter_(1, values.argmax(1, keepdim=True), 1.0)
