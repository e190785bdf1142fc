"""checked(): validates the state dict of an EnvStream before it is loaded."""

from typing import Any

import numpy as np

from fastdqn import state_dict
from fastdqn.state_dict import State


def checked(
    state: Any, kept: dict[str, np.ndarray], mode: str, num_lanes: int, num_actions: int
) -> State:
    """Returns copies of the fields of a state dict; "envs" is not copied.

    Args:
        state: The state dict.
        kept: Arrays of the stream that loads it, with the keys of EnvStream.state().
        mode: Value of the stream's autoreset mode.
        num_lanes: Number of sub-environments.
        num_actions: Number of actions.

    Raises:
        ValueError: A field does not fit; the message names it.
    """
    state_dict.fields(state, {*kept, "mask", "seed", "autoreset_mode", "envs"}, "stream")
    state_dict.word(state["autoreset_mode"], (mode,), "stream.autoreset_mode")
    new: State = {
        name: state_dict.array(state[name], old.shape, old.dtype, f"stream.{name}")
        for name, old in kept.items()
    }
    _require_range("lanes", new["lanes"], num_lanes)
    _require_range("action", new["action"], num_actions)
    if len(np.unique(new["lanes"])) < len(new["lanes"]):
        raise ValueError("stream.lanes contains the same sub-environment twice")
    mask, seed = state["mask"], state["seed"]
    if mask is not None:
        mask = state_dict.array(mask, (len(new["lanes"]), num_actions), np.bool_, "stream.mask")
        if not mask.any(1).all():
            raise ValueError("stream.mask allows no action in one of the sub-environments")
    if seed is not None:
        state_dict.integer(seed, 0, None, "stream.seed")
    return {**new, "mask": mask, "seed": seed, "envs": state["envs"]}


def _require_range(name: str, values: np.ndarray, limit: int) -> None:
    if values.min() < 0 or values.max() >= limit:
        raise ValueError(f"stream.{name} contains a number outside 0 to {limit - 1}")
