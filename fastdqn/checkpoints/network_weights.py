"""Weights files: safetensors with a description that is enough to rebuild the network."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from fastdqn.checkpoints.open_safetensors import open_tensors
from fastdqn.config.limits import beyond, fits
from fastdqn.config.option import Option, options_of
from fastdqn.config.schema import Config, ConfigError, as_fraction
from fastdqn.files.atomic_write import write_whole
from fastdqn.files.open_folder import Where
from fastdqn.text import printable

_FORMAT = 1
# Folder of a run for weights that are kept.
SNAPSHOTS = "snapshots"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 32


# Checks of the facts of the environment in a description. All other fields are options.
_FACTS: dict[str, Callable[[Any], bool]] = {
    "obs_shape": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "obs_dtype": lambda value: isinstance(value, str),
    "obs_scale": lambda value: type(value) is float and 0 < value <= 1,
    "num_actions": _is_count,
}
_OPTIONS = options_of(Config)
# Options that are never None in a description, since it is of a resolved run.
_RESOLVED = ("hidden_sizes",)


class WeightsError(ValueError):
    """Raised if a weights file cannot be used. One printable line that names file and field."""

    def __init__(self, text: str):
        super().__init__(printable(text))


def weights_path(run: str | Path, weights: str = "best") -> Path:
    """Returns the weights file of a run folder. Raises ValueError for an unknown choice."""
    path = Path(run)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    if weights not in ("best", "last"):
        raise ValueError(f"weights is {weights!r}: it must be best or last")
    best = path / "best.safetensors"
    return best if weights == "best" and best.exists() else path / "policy.safetensors"


def run_folder_of(weights: Path) -> Path:
    """Returns the folder of the run that wrote a weights file."""
    return weights.parent.parent if weights.parent.name == SNAPSHOTS else weights.parent


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
    return arrays, _read_network(path, network)


def require_readable(description: dict[str, Any]) -> None:
    """Checks before a run that its weights can be read back after it.

    Raises:
        ConfigError: The description of the network cannot be stored or read.
    """
    try:
        read = _read_network("a weights file", json.loads(json.dumps(description)))
    except (TypeError, ValueError) as error:
        raise ConfigError([f"the weights of this run could not be read back: {error}"]) from None
    assert read == description, "a description is stored in the form in which it is read"


def _read_network(path: Where | str, network: dict[str, Any]) -> dict[str, Any]:
    """Returns a checked description. Options that an older file lacks have their former values.

    Raises:
        WeightsError: A field is not valid.
    """
    stored = {name: option.before for name, option in _OPTIONS.items() if option.stored}
    network = {**stored, **network}
    for name, value in network.items():
        fact, option = _FACTS.get(name), _OPTIONS.get(name)
        if fact is not None:
            fits = fact(value)
        elif option is not None:
            fits = _is_valid(value, option)
        else:
            fits = False  # of a newer version
        if not fits:
            raise WeightsError(
                f"{path}: {name} of its network is {value!r:.60}, which is not valid"
            )
    for name in _FACTS:
        if name not in network:
            raise WeightsError(f"{path}: {name} of its network is missing")
    return network


def _is_valid(value: Any, option: Option) -> bool:
    """Returns whether a value, as JSON has it, is valid for an option and resolved."""
    if option.hint is Fraction:
        value = as_fraction(value)
    value = tuple(value) if isinstance(value, list) else value
    resolved = value not in (None, "auto") or (value is None and option.name not in _RESOLVED)
    return resolved and fits(value, option) and beyond(option.name, value, option.limit) is None


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
