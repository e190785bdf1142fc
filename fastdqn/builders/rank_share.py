"""share_of(): the options of one rank, from those of the whole run."""

from typing import TypeVar

from fastdqn.config.conflicts import DIVIDED
from fastdqn.config.schema import Config
from fastdqn.kernels.rng import derive
from fastdqn.seeding import RANK
from fastdqn.system.cpu_limits import usable_cores

C = TypeVar("C", bound=Config)


def share_of(config: C, index: int = 0, local_index: int = 0) -> C:
    """Returns the options with which a rank makes its environments, replay and learner.

    It has an equal part of what is divided, and its own seed. Only the first rank evaluates, and
    writes to other sinks than the files of its folder.

    Args:
        config: Resolved options of the whole run.
        index: Number of the rank.
        local_index: Its number on its machine, that of its CUDA device.
    """
    if config.ranks == 1:
        return config
    values = {name: getattr(config, name) for name in DIVIDED}
    if config.vectorization == "workers" and config.env_batch_size in (None, config.num_envs):
        values["workers"] = config.workers or max(config.ranks, usable_cores() - 1)
    changes = {name: each // config.ranks for name, each in values.items() if each is not None}
    changes["seed"] = rank_seed(config.seed, index)
    if config.device == "cuda":
        changes["device"] = f"cuda:{local_index}"
    if index > 0:
        changes |= dict.fromkeys(("tensorboard", "wandb", "final_evaluation"), False)
        changes["eval_frequency"] = 0
    return config.replace(**changes)


def rank_seed(seed: int, index: int) -> int:
    """Returns the seed of a rank. The first one has the seed of the run."""
    return derive(seed, RANK, index) if index else seed
