"""Q-tables on disk: safetensors with all that reading observations needs; nothing is unpickled."""

import json
import math
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fastdqn.checkpoints.network_weights import WeightsError
from fastdqn.checkpoints.safetensors_file import open_tensors
from fastdqn.files.atomic_write import write_whole
from fastdqn.files.open_folder import Where

_FORMAT = 1
_DIGITS = {
    "column": np.int64, "width": np.int64, "bins": np.int64, "low": np.float64, "high": np.float64,
}  # fmt: skip


def save_table(
    path: Where, table: np.ndarray, digits: dict[str, np.ndarray], obs_shape: tuple[int, ...]
) -> None:
    """Write a table [S, A] float32 or float64, and the digits [V] of its states by name.

    The same table gives the same bytes.
    """
    told = {"obs_shape": list(obs_shape), "num_actions": table.shape[1]}
    description = json.dumps({"format": _FORMAT, "table": told}, sort_keys=True)
    write_whole(path, safetensors.numpy.save({"table": table, **digits}, {"fastdqn": description}))


def is_table(path: Where) -> bool:
    """Whether a file says that it holds a table; what cannot be read says nothing."""
    try:
        with open_tensors(path) as file:
            return "table" in json.loads((file.metadata() or {}).get("fastdqn", "null"))
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, RecursionError):
        return False


def load_table(path: Where) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Read (table [S, A], digits [V] by name, {obs_shape, num_actions}).

    Raises WeightsError, one line, where the file holds no table whose parts fit each other.
    """
    try:
        with open_tensors(path) as file:
            said = json.loads((file.metadata() or {})["fastdqn"])
            version, told = said["format"], said["table"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (
        OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError,
        RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise WeightsError(f"{path} holds no table to read here: {error}") from None
    if version != _FORMAT:
        raise WeightsError(f"{path} has format {version!r:.60}, this version reads {_FORMAT}")
    if arrays.keys() != {"table", *_DIGITS}:
        raise WeightsError(f"{path} holds {', '.join(sorted(arrays))}: a table's parts expected")
    table, digits = arrays["table"], {name: arrays[name] for name in _DIGITS}
    if line := _described(told) or _misfit_of_table(table, digits, told):
        raise WeightsError(f"{path}: {line}")
    return table, digits, told


def _described(told: Any) -> str | None:
    """What is wrong with the description."""
    if not isinstance(told, dict):
        return f"its table is described as {told!r:.60}, not by named values"
    shape, actions = told.get("obs_shape"), told.get("num_actions")
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 32 for n in shape):
        return f"obs_shape of its table is {shape!r:.60}"
    if type(actions) is not int or actions < 1:
        return f"num_actions of its table is {actions!r:.60}"
    return None


def _misfit_of_table(table: np.ndarray, digits: dict[str, np.ndarray], told: dict) -> str | None:
    """What does not fit: kernels check nothing, and would read elsewhere."""
    for name, dtype in _DIGITS.items():
        if digits[name].dtype != dtype or digits[name].shape != digits["bins"].shape[:1]:
            return f"{name} has shape {digits[name].shape} and is {digits[name].dtype}"
    column, width, bins, low, high = digits.values()
    inside = (column >= 0) & (width >= 1) & (column + width <= math.prod(told["obs_shape"]))
    if not (inside & (column < 1 << 32) & (width < 1 << 32)).all():
        return "column and width of a digit lie outside the observation"
    if not ((bins >= 1) & ((width == 1) | (bins == width))).all():
        return "bins of a digit are not positive, or not one for each column of its stretch"
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        return "low and high of a digit are no bounds"
    states = math.prod(bins.tolist())
    if table.dtype not in (np.float32, np.float64) or table.shape != (states, told["num_actions"]):
        return (
            f"the table has shape {list(table.shape)} and is {table.dtype}: its digits make "
            f"{states:,} states, of {told['num_actions']} actions"
        )
    return None if np.isfinite(table).all() else "the table holds NaN or infinity"
