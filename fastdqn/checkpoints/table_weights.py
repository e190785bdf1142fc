"""Q-table files: safetensors with the discretization of observations."""

import json
import math
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fastdqn.checkpoints.network_weights import WeightsError
from fastdqn.checkpoints.open_safetensors import open_tensors
from fastdqn.files.atomic_write import write_whole
from fastdqn.files.open_folder import Where

_FORMAT = 1
_DIGITS = {
    "column": np.int64, "width": np.int64, "bins": np.int64, "low": np.float64, "high": np.float64,
}  # fmt: skip


def save_table(
    path: Where, table: np.ndarray, digits: dict[str, np.ndarray], obs_shape: tuple[int, ...]
) -> None:
    """Writes a Q-table. Equal tables give equal bytes.

    Args:
        path: File to write.
        table: float32[S, A] or float64[S, A].
        digits: Arrays [V] that describe the digits of a state index, by name.
        obs_shape: Shape of an observation.
    """
    description = {"obs_shape": list(obs_shape), "num_actions": table.shape[1]}
    text = json.dumps({"format": _FORMAT, "table": description}, sort_keys=True)
    write_whole(path, safetensors.numpy.save({"table": table, **digits}, {"fastdqn": text}))


def is_table(path: Where) -> bool:
    """Returns whether a file contains a Q-table. False for an unreadable file."""
    try:
        with open_tensors(path) as file:
            return "table" in json.loads((file.metadata() or {}).get("fastdqn", "null"))
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, RecursionError):
        return False


def load_table(path: Where) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Returns (table [S, A], digits [V] by name, {obs_shape, num_actions}).

    Raises:
        WeightsError: The file is not a Q-table, or its arrays do not match each other.
    """
    try:
        with open_tensors(path) as file:
            metadata = json.loads((file.metadata() or {})["fastdqn"])
            version, description = metadata["format"], metadata["table"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (
        OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError,
        RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise WeightsError(f"{path} does not contain a Q-table: {error}") from None
    if version != _FORMAT:
        raise WeightsError(f"{path} has format {version!r:.60}, and this version reads {_FORMAT}")
    if arrays.keys() != {"table", *_DIGITS}:
        raise WeightsError(
            f"{path} contains {', '.join(sorted(arrays))}, not the arrays of a Q-table"
        )
    table, digits = arrays["table"], {name: arrays[name] for name in _DIGITS}
    if line := _description_problem(description) or _table_problem(table, digits, description):
        raise WeightsError(f"{path}: {line}")
    return table, digits, description


def _description_problem(found: Any) -> str | None:
    """Returns what is wrong with the description, or None."""
    if not isinstance(found, dict):
        return f"the description of its table is {found!r:.60}, not a JSON object"
    shape, actions = found.get("obs_shape"), found.get("num_actions")
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 32 for n in shape):
        return f"obs_shape of its table is {shape!r:.60}, not a list of positive integers"
    if type(actions) is not int or actions < 1:
        return f"num_actions of its table is {actions!r:.60}, not a positive integer"
    return None


def _table_problem(
    table: np.ndarray, digits: dict[str, np.ndarray], description: dict
) -> str | None:
    """Returns which arrays do not match, or None. The kernels do not check bounds."""
    for name, dtype in _DIGITS.items():
        if digits[name].dtype != dtype or digits[name].shape != digits["bins"].shape[:1]:
            return f"{name} has shape {digits[name].shape} and dtype {digits[name].dtype}"
    column, width, bins, low, high = digits.values()
    inside = (column >= 0) & (width >= 1) & (column + width <= math.prod(description["obs_shape"]))
    if not (inside & (column < 1 << 32) & (width < 1 << 32)).all():
        return "column and width of a digit lie outside the observation"
    if not ((bins >= 1) & ((width == 1) | (bins == width))).all():
        return "bins of a digit are not positive, or differ from its width"
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        return "low and high of a digit are not finite, or low is not below high"
    states = math.prod(bins.tolist())
    if table.dtype not in (np.float32, np.float64) or table.shape != (
        states,
        description["num_actions"],
    ):
        return (
            f"the table has shape {list(table.shape)} and dtype {table.dtype}: its digits give "
            f"{states:,} states, with {description['num_actions']} actions"
        )
    return None if np.isfinite(table).all() else "the table contains NaN or infinity"
