"""Weights files: safetensors with a description that is enough to rebuild the network."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from fastdqn.checkpoints.open_safetensors import open_tensors
from fastdqn.files.atomic_write import write_whole
from fastdqn.files.open_folder import Where
from fastdqn.text import printable

_FORMAT = 1


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 32


def _is_small(value: Any) -> bool:
    """Returns whether value is valid as a size that is allocated before weights are read."""
    return type(value) is int and 0 < value <= 1 << 16


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    return type(value) is float and abs(value) <= 1e30


# Defaults of fields that older files do not have: they were written without the technique.
_BEFORE = {
    "normalize_observation": False, "normalize_reward": False, "noisy": False, "noisy_sigma": 0.5,
    "value": "scalar", "num_atoms": 51, "v_min": -10.0, "v_max": 10.0, "num_quantiles": 32,
    "num_target_fractions": 8, "num_policy_fractions": 32,
}  # fmt: skip
# Fields of the description of a network, and their checks.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "obs_shape": _are_counts,
    "obs_dtype": lambda value: isinstance(value, str),
    "obs_scale": lambda value: type(value) is float and 0 < value <= 1,
    "num_actions": _is_count,
    "hidden_sizes": _are_counts,
    "dueling": lambda value: type(value) is bool,
    "noisy": lambda value: type(value) is bool,
    "noisy_sigma": lambda value: type(value) is float and 0 <= value <= 1e6,
    "value": lambda value: value in ("scalar", "categorical", "quantile", "implicit-quantile"),
    "num_atoms": lambda value: _is_small(value) and value > 1,
    "v_min": _is_number,
    "v_max": _is_number,
    "num_quantiles": _is_small,
    "num_target_fractions": _is_small,
    "num_policy_fractions": _is_small,
    "torso": lambda value: value in ("mlp", "nature", "data-efficient", "minatar", "custom"),
    "normalize_observation": lambda value: type(value) is bool,
    "normalize_reward": lambda value: type(value) is bool,
}


class WeightsError(ValueError):
    """Raised if a weights file cannot be used. One printable line that names file and field."""

    def __init__(self, text: str):
        super().__init__(printable(text))


def save_weights(path: Where, tensors: dict[str, torch.Tensor], network: dict) -> None:
    """Writes tensors and the description of their network. Equal weights give equal bytes.

    Args:
        path: File to write.
        tensors: State dict of the network.
        network: Description of the network, a JSON object.
    """
    arrays = {
        name: np.array(tensor.detach().cpu().numpy(), order="C")  # 0-d stays 0-d
        for name, tensor in tensors.items()
    }
    description = json.dumps({"format": _FORMAT, "network": network}, sort_keys=True)
    write_whole(path, safetensors.numpy.save(arrays, {"fastdqn": description}))


def load_weights(path: Where) -> tuple[dict[str, np.ndarray], dict]:
    """Returns (arrays by name, description of the network). Raises WeightsError."""
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise WeightsError(f"{path} cannot be read: it does not fit into memory") from None
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        # TypeError and AttributeError: a dtype that NumPy lacks, such as bfloat16.
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from None
    for name, array in arrays.items():
        if array.dtype.kind == "V":  # such a dtype, if another package has registered it with NumPy
            raise WeightsError(
                f"{path} is not a readable safetensors file: {name} is {array.dtype}"
            )
    try:
        description = json.loads(metadata["fastdqn"])
        version, network = description["format"], description["network"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise WeightsError(
            f"{path} was not written by fastdqn: it does not describe a network"
        ) from None
    if version != _FORMAT:
        raise WeightsError(f"{path} has format {version!r:.60}, and this version reads {_FORMAT}")
    if not isinstance(network, dict):
        raise WeightsError(f"{path}: network is {network!r:.60}, not a JSON object")
    network = {**_BEFORE, **network}
    for name, fits in _FIELDS.items():
        if not fits(network.get(name)):
            raise WeightsError(
                f"{path}: {name} of its network is {network.get(name)!r:.60}, which is not valid"
            )
    if network["value"] == "categorical" and network["v_min"] >= network["v_max"]:
        raise WeightsError(
            f"{path}: v_min of its network is {network['v_min']}, not below v_max "
            f"{network['v_max']}"
        )
    return arrays, network


def assign_weights(path: Where, module: torch.nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Copies arrays into the state dict of a module. Raises WeightsError if one does not match."""
    tensors = module.state_dict()
    for name in sorted(tensors.keys() | arrays.keys()):
        if name not in arrays:
            raise WeightsError(f"{path} lacks {name}")
        if name not in tensors:
            raise WeightsError(f"{path} has {name}, which the network does not have")
        if tuple(tensors[name].shape) != arrays[name].shape:
            raise WeightsError(
                f"{path}: {name} has shape {list(arrays[name].shape)}, "
                f"expected {list(tensors[name].shape)}"
            )
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} contains NaN or infinity")
        if arrays[name].dtype != np.float32:
            raise WeightsError(f"{path}: {name} is {arrays[name].dtype}, expected float32")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
