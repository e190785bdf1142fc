"""EpisodeInfo: numbers that environments return in info at the end of an episode."""

from typing import Any

import numpy as np

from fastdqn.envs.infos import final_info


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
        self._missed = set(keys)  # keys without any value so far

    def read(self, info: dict[str, Any], lanes: np.ndarray, ended: np.ndarray) -> None:
        """Reads the rows bool[R] of lanes int64[R] whose episodes ended in this step."""
        rows = np.flatnonzero(ended)
        if not len(rows):
            return
        given = final_info(info, self.keys) if self._same_step else info
        for values, key in zip(self._values, self.keys, strict=True):
            values[lanes[rows]] = [_number(given, key, row) for row in rows.tolist()]

    def take(self, ended_lanes: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values float64[E] by key. NaN stands for one that is missing."""
        found = {
            key: values[ended_lanes] for key, values in zip(self.keys, self._values, strict=True)
        }
        self._values[:, ended_lanes] = np.nan
        return found

    def absent(self, found: dict[str, np.ndarray]) -> list[str]:
        """Returns the keys that had no value at the first episode ends, once."""
        absent = [key for key in self.keys if key in self._missed and np.isnan(found[key]).all()]
        self._missed.clear()
        return absent


def _number(info: dict[str, Any], key: str, row: int) -> float:
    """Returns the number of one sub-environment, or NaN if it has none."""
    given, has = info.get(key), info.get(f"_{key}")
    try:
        if given is None or (has is not None and not has[row]):
            return np.nan
        return float(given[row])
    except (TypeError, ValueError, LookupError):  # not a number for each sub-environment
        return np.nan
