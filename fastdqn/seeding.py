"""Derives independent seeds from the one that the user gives."""

import random
import sys

import numpy as np

from fastdqn.kernels.rng import derive

# Purposes that seeds are derived for; environment seeds of two purposes never meet.
TRAIN, EVAL, CONFIRM, FINAL, AUDIT, WEIGHTS, EXPLORE, SAMPLE, DRAWS, NOISE = range(10)


def env_seed(seed: int, purpose: int, count: int = 0) -> int:
    """A seed for lane 0 of one use of environments: lane i takes the seed i above.

    Each purpose has 2^28 numbers of its own, so a lane's seed is used for nothing else.
    """
    return (purpose << 28) + derive(seed, purpose, count) % ((1 << 28) - (1 << 24))


def seed_global_generators(seed: int) -> None:
    """Seed the generators that a process has one of: Python's, NumPy's and, if imported, torch's.

    fastdqn draws from none of them. Environments do that do not know Gymnasium's np_random.
    """
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
