r"""Learning curves of one preset under several settings, with ten seeds of each.

    python benchmarks/curves.py cartpole --seeds 10 --steps 100000 --points 10 \
        --setting "fused: --learner fused" --setting "torch: --learner torch"

Each run is a new process that evaluates at the same steps. A curve is the mean over seeds with its
95 % bootstrap interval. Two curves agree at a step if each mean is inside the interval of the
other. Arguments after -- are passed to every `fastdqn train`. Needs scipy (dev extra).
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastdqn.bench.machine_info import describe_machine
from fastdqn.files.atomic_write import write_whole
from harness import count, fail, main_of, writable
from seeds import interval, split


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=count, default=10, help="number of seeds, from 1")
    parser.add_argument("--steps", type=count, default=100_000, help="steps of each run")
    parser.add_argument("--points", type=count, default=10, help="evaluations per run")
    parser.add_argument("--jobs", type=count, default=1, help="parallel runs")
    parser.add_argument("--setting", action="append", required=True, help="NAME: OPTIONS")
    parser.add_argument("--out", type=writable, help="JSON file for the curves")
    own, extra = split(sys.argv[1:])
    args = parser.parse_args(own)
    settings = dict(map(_setting, args.setting))
    if len(settings) < len(args.setting):
        fail("--setting: two settings have the same name")
    if args.points > args.steps:
        fail(f"--points is {args.points}: it must be at most --steps {args.steps}")
    every = args.steps // args.points
    options = [
        "--total-timesteps", str(args.steps), "--eval-frequency", str(every),
        "--stop-at-return", "None", *extra,
    ]  # fmt: skip
    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = list(
            itertools.product(range(1, args.seeds + 1), settings)
        )  # all settings of a seed before the next seed
        curves = pool.map(
            lambda task: _curve(args.preset, task[0], [*settings[task[1]], *options], every),
            tasks,
        )
        found = dict(zip(tasks, curves, strict=True))
    report: dict[str, Any] = {
        name: _summary([found[seed, name] for seed in range(1, args.seeds + 1)])
        for name in settings
    }
    for name, curve in report.items():
        _show(name, curve)
    pairs = [_agreement(*pair, report) for pair in itertools.combinations(settings, 2)]
    if args.out:
        record = {
            "command": " ".join(["python benchmarks/curves.py", *map(_quoted, sys.argv[1:])]),
            "machine": describe_machine("cpu", None), "curves": report, "pairs": pairs,
        }  # fmt: skip
        write_whole(args.out, json.dumps(record, indent=1) + "\n")


def _setting(text: str) -> tuple[str, list[str]]:
    name, colon, options = text.partition(":")
    if not colon:
        fail(f"--setting is {text!r}: use NAME: OPTIONS, such as 'torch: --learner torch'")
    return name.strip(), options.split()


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _curve(preset: str, seed: int, options: list[str], every: int) -> dict[int, float]:
    """Trains with one seed. Returns the mean returns of evaluations by step.

    An evaluation is made after the iteration that passes its step, and counts for that step.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        ended = subprocess.run(
            [sys.executable, "-m", "fastdqn", "train", preset, "--seed", str(seed), "--quiet",
             "--run-dir", str(run), *options],
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        if ended.returncode:
            reason = ended.stderr.strip().split("\n")[-1].removeprefix("error: ")
            raise ValueError(f"seed {seed}, exit code {ended.returncode}: {reason}")
        rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    found = [row for row in rows if row["kind"] == "eval"]
    return {row["step"] // every * every: row["mean_return"] for row in found}


def _summary(curves: list[dict[int, float]]) -> dict[str, Any]:
    """Returns steps, means over seeds and intervals [P], and the returns of each seed [S, P]."""
    points = list(zip(*(sorted(curve.items()) for curve in curves), strict=True))
    returns = np.array([[value for _, value in point] for point in points])  # [P, S]
    return {
        "steps": [point[0][0] for point in points],
        "mean": [round(float(each.mean()), 2) for each in returns],
        "interval_95": [interval(each) for each in returns],
        "returns": np.round(returns.T, 2).tolist(),
    }


def _show(name: str, curve: dict[str, Any]) -> None:
    print(f"\n{name}: mean return [95 % interval] by steps")
    for steps, mean, (low, high) in zip(
        curve["steps"], curve["mean"], curve["interval_95"], strict=True
    ):
        print(f"  {steps:9,}  {mean:9.2f}  [{low:.1f}, {high:.1f}]")


def _agreement(first: str, second: str, report: dict[str, Any]) -> dict[str, Any]:
    """Returns at how many evaluations each mean is inside the interval of the other curve."""
    one, other = report[first], report[second]
    inside = [
        lows[0] <= mean <= lows[1] and highs[0] <= their_mean <= highs[1]
        for mean, their_mean, lows, highs in zip(
            one["mean"], other["mean"], other["interval_95"], one["interval_95"], strict=True
        )
    ]
    print(f"\n{first} and {second} agree at {sum(inside)} of {len(inside)} evaluations")
    return {"pair": [first, second], "agree": sum(inside), "of": len(inside)}


if __name__ == "__main__":
    main_of(main)
