"""Metric rows: names and values of the metrics of a run, and the status for displays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Phases that are no part of the speed of the loop: the user sets their frequency.
_ASIDE = ("evaluate", "save")


def metric_row(
    progress, epsilon: float, report, since: dict[str, float], steps: int, updates: int,
    elapsed: float, returns: Sequence[float], lengths: Sequence[int], frames_a_step: int | None,
) -> dict[str, float]:  # fmt: skip
    """Returns a row of metrics, under the names of Stable-Baselines3 and of CleanRL.

    Args:
        progress: Counters of the run.
        epsilon: Epsilon of exploration.
        report: Loss and Q-value of the updates since the last row, and a scheduled learning rate.
        since: Seconds of each phase since the last row.
        steps: Steps since the last row.
        updates: Updates since the last row.
        elapsed: Seconds of the training loop.
        returns: Returns of recent episodes.
        lengths: Lengths of recent episodes.
        frames_a_step: Emulator frames of a step, or None.
    """
    row = {
        "rollout/exploration_rate": epsilon,
        "rollout/episodes": progress.episodes,
        "time/total_timesteps": progress.steps,
        "time/time_elapsed": elapsed,
        "charts/SPS": _rate(progress.steps, elapsed),
        "train/n_updates": progress.updates,
    }
    if progress.restarted_envs:
        row["rollout/restarted_envs"] = progress.restarted_envs
    if frames_a_step is not None:
        row["time/total_frames"] = progress.steps * frames_a_step
    if steps:
        row["time/fps"] = _rate(steps, sum(since.values()))
        if "env" in since:  # not with actors, nor offline
            row["time/env_steps_per_second"] = _rate(steps, since["env"])
    if updates:
        row["time/learner_updates_per_second"] = _rate(updates, since.get("learn", 0.0))
    if returns:
        mean = float(np.mean(returns))
        row["rollout/ep_rew_mean"] = row["charts/episodic_return"] = mean
        row["rollout/ep_len_mean"] = row["charts/episodic_length"] = float(np.mean(lengths))
    if report.updates:
        row["train/loss"] = row["losses/td_loss"] = report.loss
        row["losses/q_values"] = report.q_value
    if report.learning_rate is not None:
        row["train/learning_rate"] = report.learning_rate
    total = sum(since.values())
    for name, seconds in since.items():
        row[f"time/share/{name}"] = seconds / total if total else 0.0
    return row


def status(
    progress,
    row: dict[str, float],
    fraction: float,
    left: float | None,
    eval_return: float | None,
    averaged: int = 0,
) -> dict[str, Any]:
    """Returns the values that a display shows.

    Args:
        progress: Counters of the run.
        row: Newest value of each metric.
        fraction: Fraction of the budget that is spent.
        left: Remaining seconds, or None.
        eval_return: Mean return of the last evaluation, or None.
        averaged: Number of episodes that the mean return is of.
    """
    return {
        "steps": progress.steps,
        "episodes": progress.episodes,
        "updates": progress.updates,
        "return": row.get("rollout/ep_rew_mean"),
        "eval_return": eval_return,
        "averaged": averaged,
        "loss": row.get("train/loss"),
        "epsilon": row["rollout/exploration_rate"],
        "fps": row.get("time/fps", 0.0),
        "env_rate": row.get("time/env_steps_per_second"),
        "learner_rate": row.get("time/learner_updates_per_second", 0.0),
        "fraction": fraction,
        "seconds_left": left,
        "shares": {
            key.rpartition("/")[2]: value
            for key, value in row.items()
            if key.startswith("time/share/")
        },
    }


def steps_per_second(steps: int, phase_seconds: dict[str, float]) -> float:
    """Returns steps per second of the loop, without the phases evaluate and save."""
    return _rate(steps, sum(phase_seconds.values()) - aside_seconds(phase_seconds))


def aside_seconds(phase_seconds: dict[str, float]) -> float:
    """Returns the seconds of the phases evaluate and save."""
    return sum(phase_seconds.get(name, 0.0) for name in _ASIDE)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
