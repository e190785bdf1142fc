"""Reads action_mask, final_obs and final_info from the infos of vector environments.

Gymnasium batches infos into a dict of arrays, with a mask of bool under the key "_" + name; its
wrapper DictInfoToList makes a list with one dict a sub-environment of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastdqn.envs.errors import EnvError

_READ = ("action_mask", "final_obs", "final_info")
# Gymnasium's name for final_obs before 1.0.
OLD_FINAL_OBS = "final_observation"


def as_dict(info: Any) -> dict[str, Any]:
    """An info as a dict of arrays. Raises EnvError where it is neither that nor a list of dicts."""
    if isinstance(info, dict):
        return info
    if isinstance(info, list | tuple | np.ndarray) and all(map(_is_info, info)):
        return gather(info)
    raise EnvError(
        f"info is {type(info).__name__}: a dict expected, or a list of one dict for each "
        "sub-environment"
    )


def gather(infos: Sequence[dict[str, Any] | None] | np.ndarray) -> dict[str, Any]:
    """One dict of arrays from the dicts of R sub-environments, the keys that are read alone."""
    batched: dict[str, Any] = {}
    for key in (*_READ, OLD_FINAL_OBS):
        given = [None if info is None else info.get(key) for info in infos]
        if not any(value is not None for value in given):
            continue
        if key == "final_info":
            batched[key] = gather([value if _is_info(value) else None for value in given])
        elif key == "action_mask" and _are_alike(given):
            batched[key] = np.array(given)
        else:
            batched[key] = objects(given)
        batched[f"_{key}"] = np.array([value is not None for value in given])
    return batched


def objects(values: Iterable[Any]) -> np.ndarray:
    """An array [R] of objects, which NumPy would otherwise make one array of where they fit."""
    values = list(values)
    array = np.full(len(values), None, object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def final_info(info: dict[str, Any]) -> dict[str, Any]:
    """infos["final_info"] as a dict of arrays, however it is batched; empty where there is none."""
    given = info.get("final_info")
    if given is None or isinstance(given, dict):
        return given or {}
    return gather([value if _is_info(value) else None for value in given])


def _are_alike(masks: list[Any]) -> bool:
    """Whether masks are one array [R, A] of bool, which is read at once."""
    first = masks[0]
    return all(
        isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == first.shape
        for mask in masks
    )


def _is_info(value: Any) -> bool:
    return value is None or isinstance(value, dict)
