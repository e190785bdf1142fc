"""Backups of the fused learner: the weights of the next actions, for a whole batch."""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vector_math import exp32, log_softmax_block
from fastdqn.kernels.vectors import load, select, splat, store
from fastdqn.learning.fused_kernel import BLOCK, select_greedy

_ZERO = np.float32(0.0)


@ieee_kernel
def bootstrap_greedily(values, mask, num_actions, best, shares):
    """Selects the best allowed action of each sample.

    Args:
        values: float32[blocks, A * BLOCK], expected returns at next_obs.
        mask: bool[B, A], or [0, 0] without masks.
        num_actions: A.
        best: int64[blocks, BLOCK], output.
        shares: float32[blocks, A * BLOCK], output: 1 for the best action, else 0.
    """
    select_best(values, mask, num_actions, best)
    shares[:] = _ZERO
    for block in range(len(values)):
        for s in range(BLOCK):
            shares[block, best[block, s] * BLOCK + s] = np.float32(1.0)


@ieee_kernel
def select_best(values, mask, num_actions, best):
    """Writes the best allowed action of each sample to best, int64[blocks, BLOCK]."""
    for block in range(len(values)):
        first = block * BLOCK
        size = BLOCK if len(mask) == 0 else min(BLOCK, len(mask) - first)
        best[block] = 0
        select_greedy(values[block], num_actions, mask, first, size, best[block])


@ieee_kernel
def bootstrap_softly(
    values, values_here, action, mask, mask_here, num_actions, alpha, temperature, least,
    log_policy, shares, entropy, bonus,
):  # fmt: skip
    """Munchausen: the softmax policy at next_obs, its entropy, and a bonus for the action taken.

    Args:
        values, values_here: float32[blocks, A * BLOCK], the target network's expected returns at
            next_obs and at obs; the second is overwritten.
        action: int64[B].
        mask, mask_here: bool[B, A] at next_obs and obs, or [0, 0] without masks.
        num_actions: A.
        alpha, temperature, least: As MunchausenBackup.
        log_policy: float32[A * BLOCK], scratch memory.
        shares: float32[blocks, A * BLOCK], output, the policy at next_obs.
        entropy, bonus: float32[blocks, BLOCK], outputs.
    """
    for block in range(len(values)):
        first = block * BLOCK
        _log_policy(values[block], mask, first, num_actions, temperature, log_policy)
        for s in range(0, BLOCK, LANES):
            total = splat(_ZERO)
            for a in range(num_actions):
                log_share = load(log_policy, a * BLOCK + s)
                share = exp32(log_share)
                store(shares[block], a * BLOCK + s, share)
                total += select(share == _ZERO, _ZERO, share * log_share)
            store(entropy[block], s, total * -temperature)
        _log_policy(values_here[block], mask_here, first, num_actions, temperature, log_policy)
        bonus[block] = _ZERO
        for s in range(min(BLOCK, len(action) - first)):
            scaled = temperature * log_policy[action[first + s] * BLOCK + s]
            scaled = least if scaled < least else scaled
            bonus[block, s] = alpha * (_ZERO if scaled > _ZERO else scaled)


@ieee_kernel
def _log_policy(values, mask, first, num_actions, temperature, log_policy):
    """Writes the logarithm of the softmax policy of a block to log_policy [A * BLOCK]."""
    for s in range(BLOCK):
        allows = len(mask) > 0 and first + s < len(mask)
        most = np.float32(-np.inf)
        for a in range(num_actions):
            value = values[a * BLOCK + s]
            if allows and not mask[first + s, a]:
                value = np.float32(-np.inf)
            most = value if not value <= most else most
            log_policy[a * BLOCK + s] = value
        # Differences first: values may be large compared to the temperature, and float32 rounds.
        for a in range(num_actions):
            log_policy[a * BLOCK + s] = (log_policy[a * BLOCK + s] - most) / temperature
    log_softmax_block(log_policy, 0, BLOCK, num_actions, log_policy, 0, BLOCK)
