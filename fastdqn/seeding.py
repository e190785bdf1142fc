"""Seeds: derives independent seeds from the seed of the run."""

import random
import sys

import numpy as np

from fastdqn.kernels.rng import derive

# Purposes that seeds are derived for. Environment seeds of two purposes never coincide.
TRAIN, EVAL, CONFIRM, FINAL, AUDIT, WEIGHTS, EXPLORE, SAMPLE, DRAWS, NOISE, RANK = range(11)


def env_seed(seed: int, purpose: int, count: int = 0) -> int:
    """Returns the seed of environment 0. Environment i uses this seed plus i.

    Each purpose has its own range of 2^28 seeds.
    """
    return (purpose << 28) + derive(seed, purpose, count) % ((1 << 28) - (1 << 24))


def seed_global_generators(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and, if imported, torch.

    fastdqn does not use them. Environments without Gymnasium's np_random do.
    """
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
