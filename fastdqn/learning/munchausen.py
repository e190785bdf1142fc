"""MunchausenBackup: a softmax policy to bootstrap from, and its log-probability as a bonus."""

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap, Queries


class MunchausenBackup:
    """Bootstraps from the softmax policy of the target network instead of one action.

    The bonus belongs to the action taken at obs, the first of n steps, so it is added to the n-step
    return without discount.

    Source: Vieillard et al. 2020 (arXiv 2007.14430), equation 2 and section 2.

    Args:
        munchausen_alpha: Factor of the bonus, in [0, 1].
        munchausen_temperature: Temperature of the policy, above 0, in units of the values.
        munchausen_floor: Lower bound of the scaled log-probability, at most 0.
    """

    asks_target_next, asks_online_next, asks_target_obs = True, False, True

    def __init__(
        self, munchausen_alpha: float, munchausen_temperature: float, munchausen_floor: float
    ):
        self._alpha, self._floor = munchausen_alpha, munchausen_floor
        self._temperature = munchausen_temperature
        self.settings = munchausen_alpha, munchausen_temperature, munchausen_floor

    def __call__(self, queries: Queries) -> Bootstrap:
        following = self._log_policy(queries.target_next(), queries.next_mask).exp()  # [B, A]
        here = self._log_policy(queries.target_obs(), queries.mask)
        log_taken = here.gather(1, queries.action.unsqueeze(1)).squeeze(1)  # [B]
        return Bootstrap(
            following,
            entropy=-self._temperature * torch.xlogy(following, following).sum(1),
            bonus=self._alpha * (self._temperature * log_taken).clamp(self._floor, 0.0),
        )

    def _log_policy(self, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            values = values.masked_fill(~mask, -torch.inf)
        # Differences first: values may be large compared to the temperature, and float32 rounds.
        return ((values - values.amax(1, keepdim=True)) / self._temperature).log_softmax(1)
