"""For tests of plots and reports: run folders that were written without a run."""

import json
from pathlib import Path
from typing import Any

from fastdqn.config.schema import Config

PHASES = {"learn": 0.5, "env": 0.3, "act": 0.2}


def write_run(folder: Path, rows: int = 20, summary: dict | None = None, **options: Any) -> Path:
    """Writes a run folder with some rows. A row is 100 steps, 2 episodes and half a second.

    Its return at a row is the seed plus the row's number; evaluations are twice that.
    summary  changes what summary.json says
    """
    folder.mkdir(parents=True)
    config = Config(preset="cartpole", stop_at_return=30.0, run_dir=str(folder)).replace(**options)
    (folder / "config.json").write_text(config.to_json())
    (folder / "command.txt").write_text("fastdqn train cartpole\n")
    packages = {"fastdqn": "0.1.0", "torch": "2.13.0"}
    system = {"processor": "a processor", "cores": 2, "device": "cpu", "packages": packages}
    (folder / "system.json").write_text(json.dumps(system))
    written = [metrics_row(i, config.seed) for i in range(1, rows + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    evaluations = [evaluation_row(i, config.seed) for i in range(5, rows + 1, 5)]
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    told = {
        "env_id": config.env_id, "preset": config.preset, "seed": config.seed,
        "total_steps": 100 * rows, "episodes": 2 * rows, "updates": 25 * rows,
        "startup_seconds": {"imports": 1.5, "build": 0.25, "kernels": 0.5},
        "wall_seconds": 0.5 * rows, "steps_per_second": 200.0,
        "phase_seconds": {name: share * 0.5 * rows for name, share in PHASES.items()},
        "eval": {
            "episodes": 20, "mean_return": 31.5, "std_return": 2.5, "min_return": 27.0,
            "max_return": 35.0, "mean_length": 31.5, "cut_episodes": 0, "steps_at_eval": 100 * rows,
        },
        "solved": {"threshold": 30.0, "steps": 1500, "seconds": 4.5},
        "exit_reason": "solved", "warnings": [], **(summary or {}),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(told))
    return folder


def metrics_row(number: int, seed: int) -> dict[str, Any]:
    row = {
        "step": 100 * number, "time/total_timesteps": 100 * number, "rollout/episodes": 2 * number,
        "time/time_elapsed": 0.5 * number, "rollout/exploration_rate": 1 / number,
        "rollout/ep_rew_mean": float(seed + number), "losses/q_values": 0.1 * number,
        "train/loss": 1 / number, "time/env_steps_per_second": 900.0,
        "time/learner_updates_per_second": 300.0,
    }  # fmt: skip
    return row | {f"time/share/{name}": share for name, share in PHASES.items()}


def evaluation_row(number: int, seed: int) -> dict[str, Any]:
    return {
        "step": 100 * number, "kind": "eval", "episodes": 20,
        "mean_return": 2.0 * (seed + number), "std_return": 1.0,
        "mean_predicted": 3.0 * number, "mean_discounted": 2.0 * number,
    }  # fmt: skip
