"""Makes one run of the study: trains, evaluates, and writes one line of JSON.

    python benchmarks/study_run.py study "CartPole-v1" "DQN" 1

study.py starts these processes. An interrupted or failed run writes no file.
"""

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import fastdqn
from fastdqn.builders.build import build
from fastdqn.builders.parts import NO_PARTS
from fastdqn.builders.user_object_checks import prepared
from fastdqn.cli import main as cli
from fastdqn.files.atomic_write import to_json, write_whole
from fastdqn.logging.console import Silent
from fastdqn.session import run_session
from fastdqn.training.loop import DivergedError, Hooks
from harness import fail
from seeds import episode_of, highest_mean
from study_rows import (
    CLASSIC,
    POINTS,
    PREDICTED,
    TABLE,
    TASKS,
    Job,
    config_of,
    steps_of,
    table_words,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("row")
    parser.add_argument("seed", type=int)
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the steps of the study"
    )
    args = parser.parse_args()
    job = Job(args.task, args.row, args.seed)
    result = run(job, args.share)
    write_whole(args.folder / job.file, to_json(result) + "\n")


def run(job: Job, share: float) -> dict[str, Any]:
    """Trains and evaluates. Returns the result, which is written as one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = str(Path(folder, "run"))
        if job.row == TABLE:
            if cli.main(table_words(job, share, run_dir)) != 0:
                fail(f"{job.task}, {job.row}, seed {job.seed}: it failed")
            predictions, diverged = {}, None
        else:
            predictions, diverged = train(job, share, run_dir)
        return {
            **job._asdict(),
            "diverged": diverged,
            **record_of(job, Path(run_dir), share, predictions, diverged),
            "cpu_seconds": round(time.process_time(), 2),
        }


def train(job: Job, share: float, run_dir: str) -> tuple[dict[int, dict], str | None]:
    """Trains a network. Returns its predictions by steps, and the error if it diverged."""
    predictions: dict[int, dict] = {}
    config = config_of(job, share, run_dir)

    def on_evaluation(steps: int, kind: str, evaluation) -> None:
        if kind == "eval" and job.row in PREDICTED:
            predictions[steps] = predict(session.run.policy, job.task, config.gamma, job.seed)

    setup = prepared(config, None, None, {}, NO_PARTS)
    session = build(setup, lambda _: Silent(), hooks=Hooks(on_evaluation=on_evaluation))
    try:
        summary = run_session(session).summary
    except DivergedError as error:
        return predictions, str(error)
    if "interrupted" in summary["exit_reason"]:
        raise SystemExit(130)
    return predictions, None


def predict(policy, task: str, gamma: float, seed: int, episodes: int = 20) -> dict[str, float]:
    """Returns the mean Q-value of greedy actions at first observations, and actual returns.

    The time limit cuts the discounted return, but not the Q-value. With 500 rewards of 1 at gamma
    0.99 the difference is at most 0.66.
    """
    envs = gymnasium.make_vec(task, episodes, vectorization_mode="sync")
    obs, _ = envs.reset(seed=seed + 1_000_000)
    predicted = policy.expected(obs).max(1)
    realised, running, discount = np.zeros(episodes), np.ones(episodes, np.bool_), 1.0
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(policy(obs))
        realised += discount * reward * running
        running &= ~(terminated | truncated)
        discount *= gamma
    envs.close()
    return {"predicted": float(predicted.mean()), "realised": float(realised.mean())}


def record_of(
    job: Job, folder: Path, share: float, predictions: dict[int, dict], diverged: str | None
) -> dict[str, Any]:
    """Returns the curve of a run, the return of its last weights, and its episodes."""
    summary = json.loads((folder / "summary.json").read_text())
    every = steps_of(job.task, share) // POINTS
    lines = (folder / "eval.jsonl").read_text().splitlines() if job.row != CLASSIC else []
    rows = [row for row in map(json.loads, lines) if row["kind"] == "eval"]
    last = None
    if diverged is None:
        policy = fastdqn.load_policy(folder, weights="last")
        evaluation = fastdqn.evaluate(policy, job.task, episodes=100, seed=job.seed)
        last = float(evaluation.returns.mean())
    found: dict[str, Any] = {
        "steps": summary["total_steps"],
        "updates": summary.get("updates"),
        "startup_seconds": sum(summary["startup_seconds"].values()),
        # An evaluation is made after the iteration that passes its step, and counts for that step.
        "curve": [
            {"step": row["step"] // every * every, "mean_return": row["mean_return"],
             **predictions.get(row["step"], {})}
            for row in rows
        ],
        "last_return": last,
    }  # fmt: skip
    if job.row == CLASSIC:
        with open(folder / "episodes.csv") as file:
            returns = [float(row["return"]) for row in csv.DictReader(file)]
        found["episodes"] = len(returns)
        found["episode_of_195"] = episode_of(returns, 195.0)
        found["episode_of_475"] = episode_of(returns, 475.0)
        found["highest_mean_of_100"] = highest_mean(returns)
    return found


if __name__ == "__main__":
    main()
