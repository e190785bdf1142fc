"""Statistics of the study: interquartile means with intervals, over existing runs."""

from typing import Any

import gymnasium
import numpy as np
from scipy import stats

from study_rows import CLASSIC, PREDICTED, TASKS

_RESAMPLES = 9_999


def iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the interquartile mean of all samples: without a quarter at either end.

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.3.
    """
    return stats.trim_mean(np.concatenate(samples, axis), 0.25, axis)


def with_interval(*samples: np.ndarray) -> dict[str, Any]:
    """Returns iqm and its 95 % stratified bootstrap interval: tasks are resampled separately."""
    value = float(iqm(*samples))
    low = high = value
    if min(map(len, samples)) > 1 and max(map(np.ptp, samples)) > 0:
        found = stats.bootstrap(
            samples, iqm, n_resamples=_RESAMPLES, method="percentile",
            rng=np.random.default_rng(0),
        )  # fmt: skip
        low, high = map(float, found.confidence_interval)
    return {"iqm": round(value, 3), "interval_95": [round(low, 3), round(high, 3)]}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns tasks {task: {row: results}}, both {row: results}, overestimation, classic."""
    by_row: dict[tuple[str, str], list[dict]] = {}
    for result in results:
        by_row.setdefault((result["task"], result["row"]), []).append(result)
    tasks: dict[str, dict] = {}
    for (task, row), runs in by_row.items():
        tasks.setdefault(task, {})[row] = of_row(task, runs)
    rows = [row for row in dict.fromkeys(row for _, row in by_row)
            if all((task, row) in by_row for task in TASKS)]  # fmt: skip
    return {
        "tasks": tasks,
        "both": {
            row: with_interval(*(scaled(task, last(task, by_row[task, row])) for task in TASKS))
            for row in rows
        },
        "overestimation": {
            task: {row: bias(runs) for row in PREDICTED if (runs := by_row.get((task, row)))}
            for task in TASKS
        },
        "classic": classic([run for run in results if run["row"] == CLASSIC]),
    }


def of_row(task: str, runs: list[dict]) -> dict[str, Any]:
    """Returns the returns of the last weights, and the curve over common evaluations."""
    points = set.intersection(*({point["step"] for point in run["curve"]} for run in runs))
    curve = []
    for step in sorted(points):
        returns = [
            next(p["mean_return"] for p in run["curve"] if p["step"] == step) for run in runs
        ]
        curve.append({"step": step, **with_interval(np.array(returns))})
    returns = last(task, runs)
    return {
        "runs": len(runs),
        "diverged": sum(run["diverged"] is not None for run in runs),
        "last": {**with_interval(returns), "returns": np.round(returns, 2).tolist()},
        "curve": curve,
        "cpu_seconds": round(float(np.mean([run["cpu_seconds"] for run in runs])), 1),
    }


def last(task: str, runs: list[dict]) -> np.ndarray:
    """Returns mean returns of the last weights over 100 greedy episodes.

    A run that diverged counts with the return of random actions.
    """
    random = TASKS[task].random_return
    returns = [run["last_return"] for run in runs]
    return np.array([random if value is None else value for value in returns])


def scaled(task: str, returns: np.ndarray) -> np.ndarray:
    """Scales returns: 0 is random actions, 1 the reward threshold of Gymnasium."""
    threshold = gymnasium.spec(task).reward_threshold
    assert threshold is not None
    random = TASKS[task].random_return
    return (returns - random) / (threshold - random)


def bias(runs: list[dict]) -> list[dict[str, Any]]:
    """Returns predicted and actual discounted returns by steps, and their difference."""
    kept = [{p["step"]: p for p in run["curve"] if "predicted" in p} for run in runs]
    points = []
    for step in sorted(set.intersection(*map(set, kept))):
        predicted, realised = (
            np.array([run[step][name] for run in kept]) for name in ("predicted", "realised")
        )
        points.append({
            "step": step, "predicted": with_interval(predicted),
            "realised": with_interval(realised), "over": with_interval(predicted - realised),
        })  # fmt: skip
    return points


def classic(runs: list[dict]) -> dict[str, Any]:
    """Returns the episode at which the mean of 100 returns reached a threshold, for each run.

    None if it did not. The usual claim is 'solved in 200 to 400 episodes'.
    """
    found: dict[str, Any] = {"runs": len(runs), "episodes": [run["episodes"] for run in runs]}
    for threshold in (195, 475):
        at = [run[f"episode_of_{threshold}"] for run in runs]
        found[f"episode_of_{threshold}"] = at
        found[f"within_200_to_400_of_{threshold}"] = sum(
            episode is not None and 200 <= episode <= 400 for episode in at
        )
    found["highest_mean_of_100"] = [run["highest_mean_of_100"] for run in runs]
    return found


def table(figures: dict[str, Any]) -> str:
    """Returns interquartile means of the last weights with their intervals, as text."""
    lines = []
    for task, rows in figures["tasks"].items():
        lines.append(f"\n{task}: return of the last weights, interquartile mean [95 % interval]")
        for row, found in rows.items():
            low, high = found["last"]["interval_95"]
            lines.append(
                f"  {row:24}  {found['last']['iqm']:8.1f}  [{low:.1f}, {high:.1f}]  "
                f"{found['runs']} runs, {found['diverged']} diverged"
            )
    if figures["both"]:
        lines.append("\nboth tasks: 0 is random actions, 1 is solved")
    for row, found in figures["both"].items():
        low, high = found["interval_95"]
        lines.append(f"  {row:24}  {found['iqm']:8.2f}  [{low:.2f}, {high:.2f}]")
    of_classic = figures["classic"]
    if of_classic["runs"]:
        for threshold in (195, 475):
            lines.append(
                f"\nclassic, mean of 100 above {threshold}: {of_classic[f'episode_of_{threshold}']}"
                f", {of_classic[f'within_200_to_400_of_{threshold}']} of {of_classic['runs']} "
                "within 200 to 400 episodes"
            )
    return "\n".join(lines)
