"""One run of the study, in a process of its own: trains, evaluates, leaves one line of JSON.

    python benchmarks/study_run.py study "CartPole-v1" "DQN" 1

study.py starts these; a run that was interrupted or failed leaves nothing.
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
    parser.add_argument("--share", type=float, default=1.0, help="of the study's steps")
    args = parser.parse_args()
    job = Job(args.task, args.row, args.seed)
    result = run(job, args.share)
    write_whole(args.folder / job.file, to_json(result) + "\n")


def run(job: Job, share: float) -> dict[str, Any]:
    """Train and evaluate; what the study knows of a run, as one line of its folder holds it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = str(Path(folder, "run"))
        if job.row == TABLE:
            if cli.main(table_words(job, share, run_dir)) != 0:
                fail(f"{job.task}, {job.row}, seed {job.seed}: it did not come to its end")
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
    """A network: its predictions by steps, and the line by which it diverged, if it did."""
    predictions: dict[int, dict] = {}
    config = config_of(job, share, run_dir)

    def on_evaluation(steps: int, kind: str, evaluation) -> None:
        if kind == "eval" and job.row in PREDICTED:
            predictions[steps] = predict(session.run.policy, job.task, config.gamma, job.seed)

    session = build(config, lambda _: Silent(), hooks=Hooks(on_evaluation=on_evaluation))
    try:
        summary = run_session(session).summary
    except DivergedError as error:
        return predictions, str(error)
    if "interrupted" in summary["exit_reason"]:
        raise SystemExit(130)
    return predictions, None


def predict(policy, task: str, gamma: float, seed: int, episodes: int = 20) -> dict[str, float]:
    """Of first observations: the value that the policy gives its own action there, and the
    discounted return that came of it; means over episodes.

    A return ends with the time limit, where a value does not: of 500 rewards of size 1 at gamma
    0.99 that is 0.66 at the most.
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
    """What a run's folder tells: its curve, its last weights' return, its episodes."""
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
        # An evaluation comes with the turn that passes its steps: it counts for those.
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
