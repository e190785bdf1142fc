r"""Trains one preset with many seeds, each in a new process, and summarizes the results.

    python benchmarks/seeds.py cartpole --seeds 10
    python benchmarks/seeds.py cartpole --seeds 10 --num-envs 1 8 64 -- \
        --total-timesteps 100000 --stop-at-return None --eval-frequency 0 --final-evaluation True
    python benchmarks/seeds.py cartpole-classic --seeds 10 --jobs 2
    python benchmarks/seeds.py lunarlander --seeds 10 --jobs 2 --steps 100000 200000

With --steps a run is trained for the first number of steps, measured, and resumed to the next. A
resumed run keeps the schedules of the first total, and environments whose state cannot be read
begin new episodes.
Arguments after -- are passed to `fastdqn train`. Needs scipy (dev extra). Times are valid only with
--jobs 1 on an idle machine.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

import fastdqn
from fastdqn.files.atomic_write import write_whole
from harness import count, fail, writable


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains one preset with many seeds.")
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 1")
    parser.add_argument(
        "--num-envs", type=int, nargs="*", default=[None], help="default: that of the preset"
    )
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs; use 1 for timings")
    parser.add_argument(
        "--steps", type=count, nargs="*", default=[], help="steps after which to measure, ascending"
    )
    parser.add_argument("--out", type=writable, help="JSON file for the results")
    own, extra = split(sys.argv[1:])
    args = parser.parse_args(own)
    if args.steps != sorted(set(args.steps)):
        fail(f"--steps {' '.join(map(str, args.steps))}: each must be above the one before")
    if args.steps and "--total-timesteps" in extra:
        fail("--steps and --total-timesteps exclude each other: leave one out")
    groups = {}
    for num_envs in args.num_envs:
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = pool.map(
                lambda seed, n=num_envs: run_seed(args.preset, seed, n, extra, args.steps),
                range(1, args.seeds + 1),
            )
            groups[str(num_envs or "preset")] = report(num_envs, runs)
    if args.out:
        command = " ".join(["python benchmarks/seeds.py", *sys.argv[1:]])
        record = {"command": command, "num_envs": groups}
        write_whole(args.out, json.dumps(record, indent=1) + "\n")


def run_seed(
    preset: str, seed: int, num_envs: int | None, extra: list[str], steps: Sequence[int] = ()
) -> dict:
    """Trains with one seed. Returns its results; those after earlier steps are in `earlier`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        lanes = [] if num_envs is None else ["--num-envs", str(num_envs)]
        totals = [["--total-timesteps", str(total)] for total in steps] or [[]]
        run_fastdqn(
            "train", preset, "--seed", str(seed), "--run-dir", str(run), *lanes, *extra, *totals[0]
        )
        found = [measured(run, seed)]
        for total in totals[1:]:
            run_fastdqn("resume", str(run), *total)
            found.append(measured(run, seed))
    return found[-1] | ({"earlier": found[:-1]} if len(found) > 1 else {})


def run_fastdqn(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "fastdqn", *words, "--quiet"], check=True)


def measured(run: Path, seed: int) -> dict:
    """Returns the summary of a run, the return of its last weights, and that of its episodes."""
    summary = json.loads((run / "summary.json").read_text())
    config = json.loads((run / "config.json").read_text())
    policy = fastdqn.load_policy(run, weights="last")
    last = fastdqn.evaluate(
        policy, summary["env_id"], episodes=100, seed=seed, max_steps=config["eval_max_steps"]
    )
    system = json.loads((run / "system.json").read_text())
    with open(run / "episodes.csv") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    return {
        "seed": seed,
        "processor": system["processor"],
        "solved": summary["solved"],
        "total_steps": summary["total_steps"],
        "episodes": summary["episodes"],
        "updates": summary["updates"],
        "wall_seconds": summary["wall_seconds"],
        "steps_per_second": summary["steps_per_second"],
        "startup_seconds": summary["startup_seconds"],
        "best_return": summary["eval"]["mean_return"],
        "last_return": float(last.returns.mean()),
        "episode_of_475": episode_of(returns, 475.0),
        "highest_mean_of_100": highest_mean(returns),
    }


def episode_of(returns: list[float], threshold: float, window: int = 100) -> int | None:
    """Returns the first episode, from 1, at which the mean of window returns reaches threshold."""
    passed = np.flatnonzero(window_sums(returns, window) >= threshold * window)
    return int(passed[0]) + window if len(passed) else None


def highest_mean(returns: list[float], window: int = 100) -> float | None:
    sums = window_sums(returns, window)
    return float(sums.max() / window) if len(sums) else None


def window_sums(returns: list[float], window: int) -> np.ndarray:
    """Returns the sums of window consecutive returns, empty if there are fewer."""
    total = np.concatenate(([0.0], np.cumsum(returns)))
    return total[window:] - total[:-window]


def report(num_envs: int | None, ended: Iterable[dict]) -> dict:
    """Prints a line for each run, in the order of seeds, and a summary. Returns both."""
    print(f"\nnum_envs {num_envs or 'of the preset'}")
    runs = []
    for run in ended:
        runs.append(run)
        solved = f"{run['solved']['seconds']:5.1f} s" if run["solved"] else "  not "
        print(
            f"  seed {run['seed']:2}  solved {solved}  steps {run['total_steps']:7}  "
            f"{run['steps_per_second']:7.0f} steps/s  best {run['best_return']:5.1f}  "
            f"last {run['last_return']:5.1f}  episode of 475: {run['episode_of_475']}",
            flush=True,
        )
    figures = summarized(runs)
    print("  " + "  ".join(f"{name} {value}" for name, value in figures.items()))
    for at in range(len(runs[0].get("earlier", ()))):
        before = [run["earlier"][at] for run in runs]
        best = np.array([run["best_return"] for run in before])
        low, high = interval(best)
        print(
            f"  after {min(run['total_steps'] for run in before)} steps: best {best.mean():.1f} "
            f"({low:.1f} to {high:.1f}), lowest {best.min():.1f}"
        )
    return {**figures, "runs": runs}


def summarized(runs: list[dict]) -> dict:
    """Returns means of runs, with intervals."""
    best = np.array([run["best_return"] for run in runs])
    last = np.array([run["last_return"] for run in runs])
    seconds = [run["solved"]["seconds"] for run in runs if run["solved"]]
    return {
        "solved": len(seconds),
        "of": len(runs),
        "median_solved_seconds": float(np.median(seconds)) if seconds else None,
        "median_steps_per_second": float(np.median([run["steps_per_second"] for run in runs])),
        "mean_best_return": float(best.mean()),
        "best_interval_95": interval(best),
        "mean_last_return": float(last.mean()),
        "interval_95": interval(last),
    }


def interval(values: np.ndarray) -> list[float]:
    """Returns the 95 % percentile bootstrap interval of the mean."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    result = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return [round(float(end), 1) for end in result.confidence_interval]


def split(words: list[str]) -> tuple[list[str], list[str]]:
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    main()
