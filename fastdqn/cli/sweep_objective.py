"""Objectives of a sweep: what is measured of each run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.config.schema import Config
from fastdqn.files.atomic_write import read_text

# The part of a run, at its end, whose episodes count for the objective training.
_LAST = 0.1
_FEWEST = 20  # episodes, since the short ones alone may end in the last tenth of a short run
# Objectives that count, with the option that limits the count.
_BUDGETS = {"steps": "total_timesteps", "episodes": "total_episodes"}


class Objective(NamedTuple):
    """What a sweep compares.

    Attributes:
        text: What a value is, in the lines of a sweep.
        sign: 1 if larger values are better, -1 if smaller ones are.
        measure: From the folder, summary and options of a run to its value; None if it has none.
        budget: Option that limits a count until solved.
    """

    text: str
    sign: int
    measure: Callable[[Path, Mapping[str, Any], Config], float | None]
    budget: str | None = None

    def text_of(self, score: float, config: Config) -> str:
        """Returns the value of a score, of which larger ones are better, as a text."""
        value = abs(score) if self.sign < 0 else score
        unsolved = self.budget is not None and value == 2 * getattr(config, self.budget)
        return f"{value:.6g}" + " (not solved)" * unsolved


def problems(objective: str, config: Config) -> list[str]:
    """Returns messages about options that an objective needs."""
    lines = []
    if objective != "training" and config.eval_frequency == 0:
        lines.append(
            "eval_frequency is 0: a sweep compares evaluations. Use --objective training to "
            "compare training returns"
        )
    if objective in ("curve", "training") and config.stop_at_return is not None:
        lines.append(
            f"stop_at_return is {config.stop_at_return:g}, which ends the better runs early, and "
            f"--objective {objective} compares whole runs: add --stop-at-return None"
        )
    if objective in ("training", "episodes") and config.offline:
        lines.append(f"offline trains without episodes, and --objective {objective} compares them")
    steps = config.total_timesteps
    if objective in ("curve", *_BUDGETS) and steps is not None and config.eval_frequency > steps:
        lines.append(
            f"eval_frequency is {config.eval_frequency:,}: no evaluation within total_timesteps, "
            f"{steps:,}. Use a smaller --eval-frequency"
        )
    if objective in _BUDGETS:
        if config.stop_at_return is None:
            lines.append(f"--objective {objective} needs --stop-at-return, which ends a run")
        if getattr(config, _BUDGETS[objective]) is None:
            flag = "--" + _BUDGETS[objective].replace("_", "-")
            lines.append(
                f"--objective {objective} needs {flag}: an unsolved run counts as twice that"
            )
    return lines


def _best(folder: Path, summary: Mapping[str, Any], config: Config) -> float | None:
    return summary["eval"]["mean_return"]


def _curve(folder: Path, summary: Mapping[str, Any], config: Config) -> float | None:
    rows = [json.loads(line) for line in read_text(folder / "eval.jsonl").splitlines()]
    means = [row["mean_return"] for row in rows if row["kind"] == "eval"]
    return float(np.mean(means)) if means else None


def _training(folder: Path, summary: Mapping[str, Any], config: Config) -> float | None:
    lines = read_text(folder / "episodes.csv").splitlines()
    steps, returns = (lines[0].split(",").index(name) for name in ("steps", "return"))
    rows = [line.split(",") for line in lines[1:]]
    from_step = (1.0 - _LAST) * summary["total_steps"]
    count = sum(float(row[steps]) > from_step for row in rows)
    last = [float(row[returns]) for row in rows[-max(count, _FEWEST) :]]
    return float(np.mean(last)) if last else None


def _steps(folder: Path, summary: Mapping[str, Any], config: Config) -> float | None:
    return _until_solved("steps", summary["total_steps"], summary, config)


def _episodes(folder: Path, summary: Mapping[str, Any], config: Config) -> float | None:
    return _until_solved("episodes", summary["episodes"], summary, config)


def _until_solved(
    objective: str, count: int, summary: Mapping[str, Any], config: Config
) -> float | None:
    """Returns a count, or twice its budget if the run was not solved, whatever has ended it."""
    return count if summary["solved"] is not None else 2 * getattr(config, _BUDGETS[objective])


OBJECTIVES: dict[str, Objective] = {
    "best": Objective("mean return", 1, _best),
    "curve": Objective("mean return of all evaluations", 1, _curve),
    "training": Objective("training return", 1, _training),
    "steps": Objective("steps until solved", -1, _steps, "total_timesteps"),
    "episodes": Objective("episodes until solved", -1, _episodes, "total_episodes"),
}
