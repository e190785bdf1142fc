"""Keys of info at episode ends: their means over episodes, and their names in rows."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

# An episode without this key is no success: an environment may return it at its goal alone, and an
# episode that is cut has no last step.
SUCCESS = "is_success"


class InfoMean(NamedTuple):
    """Mean of a key over the episodes that have it.

    Attributes:
        mean: The mean.
        num_values: Number of episodes that have the key.
        episodes: Number of all episodes.
    """

    mean: float
    num_values: int
    episodes: int

    @property
    def over(self) -> str:
        """Which episodes the mean is of, if not of all, else an empty string."""
        partial = self.num_values < self.episodes
        return f" over {self.num_values} of {self.episodes} episodes" if partial else ""


def counted(key: str, values: Sequence[float], known: Collection[str]) -> Sequence[float]:
    """Returns the values with 0 for each missing is_success, if it is a known key of episodes."""
    if key != SUCCESS or key not in known:
        return values
    return [0.0 if math.isnan(value) else value for value in values]


def info_mean(values: Sequence[float]) -> InfoMean | None:
    """Returns the mean of values that are NaN where an episode has none, or None without any."""
    kept = [value for value in values if not math.isnan(value)]
    return InfoMean(mean(kept), len(kept), len(values)) if kept else None


def mean(values: Collection[float]) -> float:
    """Returns the mean of finite numbers, whose sum may exceed the largest float."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def info_columns(name: str, found: InfoMean) -> dict[str, float]:
    """Returns the columns of a mean in a row: itself, and its count if it is not of all."""
    count = {f"{name}_episodes": found.num_values} if found.num_values < found.episodes else {}
    return {name: found.mean, **count}


def info_title(key: str) -> str:
    """Returns what people call a key of info."""
    return "success rate" if key == SUCCESS else key


def info_metric(key: str, group: str = "rollout") -> str:
    """Returns the name of a key of info in a row. Stable-Baselines3 calls is_success so, too."""
    return f"{group}/{'success_rate' if key == SUCCESS else key}"
