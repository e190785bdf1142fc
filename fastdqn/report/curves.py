"""Learning curves: metrics over steps, episodes or seconds, with confidence intervals."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from fastdqn.report.run_data import Columns, RunRecord, number

Over = Literal["steps", "episodes", "time"]
Center = Literal["mean", "iqm"]
# x axis -> (label, metric).
AXES: dict[str, tuple[str, str]] = {
    "steps": ("steps", "time/total_timesteps"),
    "episodes": ("episodes", "rollout/episodes"),
    "time": ("seconds of the loop", "time/time_elapsed"),
}


class Quantity(NamedTuple):
    """Quantity that can be drawn as a curve.

    Attributes:
        title: Title of the chart.
        key: Name of its column.
        evaluated: Whether the column is in eval.jsonl rather than metrics.jsonl.
        unit: Label of the y axis.
    """

    title: str
    key: str
    evaluated: bool = False
    unit: str = ""


QUANTITIES: dict[str, Quantity] = {
    "evaluation": Quantity(
        "mean return of greedy evaluations", "mean_return", evaluated=True, unit="return"
    ),
    "return": Quantity(
        "mean return of the last 100 training episodes", "rollout/ep_rew_mean", unit="return"
    ),
    "q": Quantity("mean Q-value of the actions in a batch", "losses/q_values", unit="Q-value"),
    "loss": Quantity("loss", "train/loss", unit="loss"),
    "epsilon": Quantity("epsilon of exploration", "rollout/exploration_rate", unit="epsilon"),
}
# Points of a mean curve, bins of phases, and bootstrap resamples. Not tuned.
_PLACES, _BINS, _RESAMPLES = 120, 24, 1_999


class Line(NamedTuple):
    """Curve of one run: finite float64[P] arrays, with ascending x."""

    x: np.ndarray
    y: np.ndarray


class Band(NamedTuple):
    """Mean or IQM over runs with its 95 % bootstrap interval, on their common range: float64[P]."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Phases(NamedTuple):
    """Share of each phase in bins over the x axis.

    Attributes:
        edges: float64[P + 1], ascending edges of the bins.
        shares: float64[P] by phase. They sum to 1, or to 0 in a bin without time.
    """

    edges: np.ndarray
    shares: dict[str, np.ndarray]


def quantity_of(name: str, records: list[RunRecord]) -> Quantity:
    """Returns the quantity of a name in QUANTITIES, or of a column: see column_of()."""
    if name in QUANTITIES:
        return QUANTITIES[name]
    column = column_of(name, records) or name
    of_evaluations = not any(column in record.metrics for record in records)
    return Quantity(column, column, of_evaluations, unit=column.rpartition("/")[2])


def column_of(name: str, records: list[RunRecord]) -> str | None:
    """Returns the column of the runs' rows with a name, or else the only one that ends in it.

    Of metrics.jsonl, "success_rate" is rollout/success_rate. The columns of evaluations count only
    if training has none.
    """
    found = columns(records)
    if name in found:
        return name
    ends = [each for each in found if each.endswith(f"/{name}") and "/" not in name]
    trained = [each for each in ends if not each.startswith("eval/")]
    return next(iter(trained or ends)) if len(trained or ends) == 1 else None


def columns(records: list[RunRecord]) -> list[str]:
    """Returns the names of all columns of the runs' rows."""
    return sorted({name for each in records for name in (*each.metrics, *each.evaluations)})


def line(record: RunRecord, quantity: Quantity, over: Over) -> Line:
    """Returns the curve of a run, without points if the run lacks the quantity."""
    rows = record.evaluations if quantity.evaluated else record.metrics
    if quantity.key not in rows:
        return Line(np.empty(0), np.empty(0))
    x, y = _place(record, rows["step"], over), rows[quantity.key]
    there = np.isfinite(x) & np.isfinite(y) & _unbiased(record, quantity, len(y))
    return Line(x[there], y[there])


def _unbiased(record: RunRecord, quantity: Quantity, rows: int) -> np.ndarray:
    """Returns bool[rows], the rows whose mean of episodes is not one of the shortest alone.

    The first episodes to end are short ones. Each environment has finished one in the rows that
    are left, or all rows are if it never comes to that. Without episodes.csv, as many episodes as
    environments have to do.
    """
    episodes = record.metrics.get("rollout/episodes")
    if quantity.key != "rollout/ep_rew_mean":
        return np.ones(rows, np.bool_)
    enough = record.metrics["step"] >= record.all_ended
    if not enough.any() and episodes is not None:
        enough = episodes >= number(record.config.get("num_envs"))
    return enough if enough.any() else np.ones(rows, np.bool_)


def band(lines: list[Line], center: Center = "mean") -> Band | None:
    """Returns the mean or IQM of at least two curves on their common range, or None."""
    lines = [each for each in lines if len(each.x)]
    if len(lines) < 2:
        return None
    start, end = max(each.x[0] for each in lines), min(each.x[-1] for each in lines)
    if start >= end:
        return None
    x = np.linspace(start, end, _PLACES)
    values = np.array([np.interp(x, each.x, each.y) for each in lines])  # [S, P]
    low, high = interval(values, center)
    return Band(x, _statistic(center)(values, axis=0), low, high)


def interval(values: np.ndarray, center: Center = "mean") -> tuple[np.ndarray, np.ndarray]:
    """Returns the 95 % percentile bootstrap interval of a statistic over the first axis.

    Needs scipy.

    Args:
        values: float64[S, *]. A single value is its own interval.
        center: mean, or iqm: the mean without the lowest and the highest quarter.
    """
    if len(values) < 2:
        return values[0], values[0]
    from scipy import stats

    found = stats.bootstrap(
        (values,), _statistic(center), n_resamples=_RESAMPLES, method="percentile",
        rng=np.random.default_rng(0), axis=0, vectorized=True,
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def _statistic(center: Center) -> Callable[..., np.ndarray]:
    if center == "mean":
        return np.mean
    from scipy import stats

    return lambda values, axis: stats.trim_mean(values, 0.25, axis=axis)


def phases(records: list[RunRecord], over: Over) -> Phases | None:
    """Returns the shares of phases in the total time of all runs, or None without times."""
    placed = [(_place(r, r.metrics["step"], over), _phase_seconds(r)) for r in records]
    placed = [(x, seconds) for x, seconds in placed if np.isfinite(x).all() and x[-1] > 0]
    if not placed:
        return None
    # A bin between two evaluations or shorter would have either none or nothing else.
    evaluations = max(len(r.evaluations.get("step", ())) for r in records)
    bins = min(_BINS, max(len(x) for x, _ in placed), evaluations or _BINS)
    edges = np.linspace(0.0, max(x[-1] for x, _ in placed), bins + 1)
    sums: dict[str, np.ndarray] = {}
    for x, seconds in placed:
        for name, total in seconds.items():
            # The time of a row is spread over the interval since the last row.
            spent = np.diff(np.interp(edges, [0.0, *x], [0.0, *total]))
            sums[name] = sums.get(name, np.zeros(bins)) + spent
    total = np.sum(list(sums.values()), axis=0) if sums else np.zeros(1)
    if not total.any():
        return None
    return Phases(edges, {name: s / np.where(total > 0, total, 1.0) for name, s in sums.items()})


def _phase_seconds(record: RunRecord) -> Columns:
    """Returns the cumulative seconds of each phase at each row."""
    elapsed = record.metrics.get("time/time_elapsed", np.zeros(len(record.metrics["step"])))
    since = np.diff(np.nan_to_num(elapsed), prepend=0.0).clip(0.0)
    prefix = "time/share/"
    return {
        key.removeprefix(prefix): np.cumsum(np.nan_to_num(share).clip(0.0) * since)
        for key, share in record.metrics.items()
        if key.startswith(prefix)
    }


def _place(record: RunRecord, steps: np.ndarray, over: Over) -> np.ndarray:
    """Converts steps to positions on an axis, by interpolation. NaN if unknown."""
    at = record.metrics.get(AXES[over][1], np.full(len(record.metrics["step"]), np.nan))
    known = np.isfinite(at)
    if not known.any():
        return np.full(len(steps), np.nan)
    return np.interp(steps, record.metrics["step"][known], at[known])
