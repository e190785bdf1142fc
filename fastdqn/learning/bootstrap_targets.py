"""Backups: which actions the target looks at. Each gives action weights, and may add a bonus."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Queries(NamedTuple):
    """What a backup may ask for; whatever costs a computation is a call.

    target_next  gives [B, A], values of the target network at next_obs
    online_next  gives [B, A], the online network at next_obs
    target_obs   gives [B, A], the target network at obs
    action       [B] int64, taken at obs
    next_mask    [B, A] bool, the actions allowed at next_obs, or None: all
    mask         [B, A] bool, the actions allowed at obs, or None: all
    """

    target_next: Callable[[], Tensor]
    online_next: Callable[[], Tensor]
    target_obs: Callable[[], Tensor]
    action: Tensor
    next_mask: Tensor | None
    mask: Tensor | None


class Bootstrap(NamedTuple):
    """The mixture of actions to bootstrap from.

    action_weights  [B, A] float32, rows sum to 1
    entropy  [B] float32, added to the bootstrap value, or None
    bonus    [B] float32, added to the reward, or None
    """

    action_weights: Tensor
    entropy: Tensor | None = None
    bonus: Tensor | None = None


class Backup(Protocol):
    """Says beforehand which queries it makes, so that no random number is drawn for others."""

    asks_target_next: bool
    asks_online_next: bool
    asks_target_obs: bool

    def __call__(self, queries: Queries) -> Bootstrap: ...


class MaxBackup:
    """The target network selects and evaluates: Q-learning (Mnih et al. 2015)."""

    asks_target_next, asks_online_next, asks_target_obs = True, False, False

    def __call__(self, queries: Queries) -> Bootstrap:
        return Bootstrap(_one_hot_argmax(queries.target_next(), queries.next_mask))


class DoubleBackup:
    """The online network selects, the target network evaluates.

    van Hasselt et al. 2016 (arXiv 1509.06461), equation 4.
    """

    asks_target_next, asks_online_next, asks_target_obs = False, True, False

    def __call__(self, queries: Queries) -> Bootstrap:
        return Bootstrap(_one_hot_argmax(queries.online_next(), queries.next_mask))


def _one_hot_argmax(values: Tensor, mask: Tensor | None) -> Tensor:
    """[B, A] to one-hot [B, A]; scatter, since one_hot() reads back from the device."""
    if mask is not None:
        values = values.masked_fill(~mask, -torch.inf)
    return torch.zeros_like(values).scatter_(1, values.argmax(1, keepdim=True), 1.0)
