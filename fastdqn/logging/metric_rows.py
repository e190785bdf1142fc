"""Rows: what is written of a run's progress, and shown of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Phases that steps_per_second leaves out: how often they come is the user's choice.
_ASIDE = ("evaluate", "save")


def metric_row(
    progress, epsilon: float, report, since: dict[str, float], steps: int, updates: int,
    elapsed: float, returns: Sequence[float], lengths: Sequence[int], frames_a_step: int | None,
) -> dict[str, float]:  # fmt: skip
    """One row of metrics, under the keys of both dialects.

    since  seconds by phase since the row before; steps, updates  made since then
    elapsed  seconds of the loop; returns, lengths  of recent episodes
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
        row["time/env_steps_per_second"] = _rate(steps, since.get("env", 0.0))
    if updates:
        row["time/learner_updates_per_second"] = _rate(updates, since.get("learn", 0.0))
    if returns:
        mean = float(np.mean(returns))
        row["rollout/ep_rew_mean"] = row["charts/episodic_return"] = mean
        row["rollout/ep_len_mean"] = row["charts/episodic_length"] = float(np.mean(lengths))
    if report.updates:
        row["train/loss"] = row["losses/td_loss"] = report.loss
        row["losses/q_values"] = report.q_value
    total = sum(since.values())
    for name, seconds in since.items():
        row[f"time/share/{name}"] = seconds / total if total else 0.0
    return row


def status(
    progress, row: dict[str, float], fraction: float, left: float | None, eval_return: float | None
) -> dict[str, Any]:
    """What a display shows.

    row  the newest value of each metric; fraction  of the budget; left  seconds, where known
    """
    return {
        "steps": progress.steps,
        "episodes": progress.episodes,
        "updates": progress.updates,
        "return": row.get("rollout/ep_rew_mean"),
        "eval_return": eval_return,
        "loss": row.get("train/loss"),
        "epsilon": row["rollout/exploration_rate"],
        "fps": row.get("time/fps", 0.0),
        "env_rate": row.get("time/env_steps_per_second", 0.0),
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
    """Steps by the loop's own time: evaluation, saving and reporting left out."""
    spent = sum(seconds for name, seconds in phase_seconds.items() if name not in _ASIDE)
    return _rate(steps, spent)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
