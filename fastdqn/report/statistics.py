"""Statistics over runs: interquartile mean, bootstrap intervals, probability of improvement.

The estimators of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (arXiv 2108.13264), as their library rliable defines them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Resamples of an interval, as many as rliable draws by default.
RESAMPLES = 50_000
LEVEL = 0.95
# Resampled numbers that are held at a time, 8 bytes each. Not tuned.
_HELD = 1 << 22


class Interval(NamedTuple):
    low: float
    high: float


def iqm(scores: np.ndarray) -> np.ndarray:
    """Returns the interquartile mean: the mean without the lowest and the highest quarter.

    floor(R T / 4) values are left out at each end, as scipy.stats.trim_mean(scores, 0.25) does: no
    value counts in part. Of 2 or 3 values it is therefore their mean.

    scores   [..., R, T]: R runs of T tasks
    returns  [...]
    """
    values = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Returns the percentile interval of a statistic. Runs are resampled within each task.

    One run has no spread to resample: None.

    Args:
        scores: float64[R, T], R runs of T tasks.
        statistic: Function of float64[B, R, T] that returns float64[B].
        resamples: Number of resamples.
        level: Share of the resampled statistics within the interval.
        seed: Seed of the resampling.
    """
    runs, tasks = scores.shape
    if runs < 2:
        return None
    rng, drawn = np.random.default_rng(seed), list[np.ndarray]()
    for count in _chunks(resamples, runs * tasks):
        rows = rng.integers(runs, size=(count, runs, tasks))
        drawn.append(statistic(scores[rows, np.arange(tasks)]))
    return _percentiles(np.concatenate(drawn), level)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the probability that a run of x scores above a run of y, averaged over the tasks.

    It is the U statistic of Mann and Whitney, divided by the number of pairs. A tie counts one
    half.

    x  [R, T];  y  [S, T]
    """
    return float(_wins(x, y).mean())


def improvement_interval(
    x: np.ndarray,
    y: np.ndarray,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Returns the percentile interval of probability_of_improvement(). None if x or y has one run.

    Runs of x and of y are resampled independently, within each task. The mean over the pairs of a
    resample is computed from how often each run was drawn.

    x  [R, T];  y  [S, T]
    """
    wins = _wins(x, y)
    runs, others, tasks = wins.shape
    if runs < 2 or others < 2:
        return None
    rng, drawn = np.random.default_rng(seed), list[np.ndarray]()
    for count in _chunks(resamples, (runs + others) * tasks):
        total = np.zeros(count)
        for task in range(tasks):
            of_x = rng.multinomial(runs, np.full(runs, 1 / runs), size=count) / runs  # [B, R]
            of_y = rng.multinomial(others, np.full(others, 1 / others), size=count) / others
            total += ((of_x @ wins[:, :, task]) * of_y).sum(axis=1)
        drawn.append(total / tasks)
    return _percentiles(np.concatenate(drawn), level)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns float64[R, S, T]: 1 where a run of x scores above one of y, 1/2 for a tie, else 0."""
    above, below = x[:, None], y[None, :]
    return (above > below) + 0.5 * (above == below)


def _chunks(resamples: int, size: int) -> list[int]:
    """Divides resamples of this many numbers so that a part holds at most _HELD numbers."""
    most = max(1, _HELD // size)
    full, rest = divmod(resamples, most)
    return [most] * full + [rest] * (rest > 0)


def _percentiles(values: np.ndarray, level: float) -> Interval:
    ends = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(ends[0]), float(ends[1]))
