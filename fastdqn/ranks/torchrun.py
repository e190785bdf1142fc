"""Variables of the environment by which torchrun numbers the processes of a run."""

import os

from fastdqn.config.schema import ConfigError


def world_size() -> int:
    """Returns the number of processes that torchrun has started, 1 without it.

    Raises:
        ConfigError: WORLD_SIZE is not a number.
    """
    return max(1, _number("WORLD_SIZE"))


def rank_index() -> int:
    """Returns the number of this process, from 0. Raises ConfigError."""
    return _number("RANK") if world_size() > 1 else 0


def local_rank() -> int:
    """Returns the number of this process among those of its machine. Raises ConfigError."""
    return _number("LOCAL_RANK") if world_size() > 1 else 0


def program(ranks: int) -> str:
    """Returns the words that start fastdqn with a number of processes."""
    return f"torchrun --nproc-per-node {ranks} -m fastdqn" if ranks > 1 else "fastdqn"


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise ConfigError([f"{name} of the environment is {text!r}: start the run with torchrun"])
    return int(text)
