"""EpisodeInfo: numbers that environments return in info at the end of an episode."""

import math
from typing import Any

import numpy as np

from fastdqn.envs.infos import final_info, number_of


class EpisodeInfo:
    """Reads the values of some keys of info at episode ends.

    Args:
        keys: Their names, such as is_success.
        num_lanes: N, number of sub-environments.
        same_step: Whether a sub-environment is reset in the step that ends its episode. The info of
            the end is then in info["final_info"].
    """

    def __init__(self, keys: tuple[str, ...], num_lanes: int, same_step: bool):
        self.keys, self._same_step = keys, same_step
        self._values = np.full((len(keys), num_lanes), np.nan)
        self._unwarned = set(keys)
        self._rejected: dict[str, float] = {}  # newest value by key that is NaN or infinite

    def read(self, info: dict[str, Any], lanes: np.ndarray, ended: np.ndarray) -> None:
        """Reads the rows bool[R] of lanes int64[R] whose episodes ended in this step."""
        rows = np.flatnonzero(ended)
        if not len(rows):
            return
        given = final_info(info, self.keys) if self._same_step else info
        for values, key in zip(self._values, self.keys, strict=True):
            for row in rows.tolist():
                number = _number(given, key, row)
                if number is None or math.isfinite(number):
                    values[lanes[row]] = math.nan if number is None else number
                else:
                    self._rejected[key] = number

    def take(self, ended_lanes: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values float64[E] by key. NaN stands for one that is missing."""
        found = {
            key: values[ended_lanes] for key, values in zip(self.keys, self._values, strict=True)
        }
        self._values[:, ended_lanes] = np.nan
        return found

    def absent(self, found: dict[str, np.ndarray]) -> list[str]:
        """Returns a warning for each key that had no value at the first episode ends, once."""
        lines = [
            f"info has {self._rejected[key]} as {key!r} at the end of an episode, which is not "
            "recorded: --info-keys needs finite numbers"
            if key in self._rejected
            else f"info has no number {key!r} at the end of an episode: --info-keys names it, and "
            "step() must return it with the last observation"
            for key in self.keys
            if key in self._unwarned and np.isnan(found[key]).all()
        ]
        self._unwarned.clear()
        return lines


def _number(info: dict[str, Any], key: str, row: int) -> float | None:
    """Returns the number of one sub-environment, or None if it has none."""
    given, has = info.get(key), info.get(f"_{key}")
    try:
        if given is None or (has is not None and not has[row]):
            return None
        return number_of(given[row])
    except (TypeError, ValueError, LookupError):  # not a value for each sub-environment
        return None
