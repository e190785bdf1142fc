"""Reads action_mask, final_obs and final_info from the infos of vector environments.

Gymnasium batches infos into a dict of arrays, with a bool mask under the key "_" + name. Its
wrapper DictInfoToList turns that into a list with one dict for each sub-environment.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastdqn.envs.errors import EnvError, HungError

_READ = ("action_mask", "final_obs", "final_info")
# Name of final_obs before Gymnasium 1.0.
OLD_FINAL_OBS = "final_observation"


def as_dict(info: Any, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns an info as a dict of arrays; raises EnvError if it is not a dict or list of dicts.

    keys: names that are read in addition.
    """
    if isinstance(info, dict):
        return info
    if isinstance(info, list | tuple | np.ndarray) and all(map(_is_info, info)):
        return gather(info, keys)
    raise EnvError(
        f"info is {type(info).__name__}: expected a dict, or a list of one dict for each "
        "sub-environment"
    )


def gather(
    infos: Sequence[dict[str, Any] | None] | np.ndarray, keys: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Batches the infos of R sub-environments into a dict of arrays, only the keys in use."""
    batched: dict[str, Any] = {}
    for key in (*_READ, OLD_FINAL_OBS, *keys):
        given = [None if info is None else info.get(key) for info in infos]
        if not any(value is not None for value in given):
            continue
        if key == "final_info":
            inner = [value if _is_info(value) else None for value in given]
            batched[key] = gather(inner, keys)
        elif key == "action_mask" and _are_alike(given):
            batched[key] = np.array(given)
        else:
            batched[key] = objects(given)
        batched[f"_{key}"] = np.array([value is not None for value in given])
    return batched


def objects(values: Iterable[Any]) -> np.ndarray:
    """Returns an object array [R]; np.array() would build a nested array where shapes match."""
    values = list(values)
    array = np.full(len(values), None, object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def number_of(value: Any) -> float | None:
    """Returns a value of a user's info as a float, or None if it is no number.

    Text is none, although float() reads it.
    """
    if isinstance(value, str | bytes | bytearray):
        return None
    try:
        return float(value)
    except HungError:  # the interrupt of a hanging call
        raise
    except Exception:  # __float__() of a user's object may raise anything
        return None


def final_info(info: dict[str, Any], keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns infos["final_info"] as a dict of arrays, empty if there is none."""
    given = info.get("final_info")
    if given is None or isinstance(given, dict):
        return given or {}
    return gather([value if _is_info(value) else None for value in given], keys)


def _are_alike(masks: list[Any]) -> bool:
    """Whether the masks are bool arrays of one shape, so that one array can hold them."""
    first = masks[0]
    return all(
        isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == first.shape
        for mask in masks
    )


def _is_info(value: Any) -> bool:
    return value is None or isinstance(value, dict)
