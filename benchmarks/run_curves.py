"""Extracts the learning curves of finished runs from their folders.

    fastdqn train minatar-breakout --seed 1 --run-dir breakout-1
    python benchmarks/run_curves.py breakout-1 --every 25000 --out curve.json

Training returns are means over the episodes that ended in each complete interval of steps.
Evaluations are those that the run recorded.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from fastdqn.files.atomic_write import write_whole
from harness import count, fail, writable

_KEYS = (
    "total_steps", "total_frames", "episodes", "updates", "wall_seconds", "steps_per_second",
    "exit_reason",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--every", type=count, default=25_000, help="steps of an interval")
    parser.add_argument("--out", type=writable, help="JSON file for the curves")
    args = parser.parse_args()
    curves = [curve(run, args.every) for run in args.runs]
    for found in curves:
        print(
            f"\n{found['command']}\n{found['total_steps']:,} steps, {found['wall_seconds']:,.0f} s"
        )
        for row in found["training"]:
            print(f"  {row['steps']:9,}  {row['episodes']:6} episodes  {row['mean_return']:8.2f}")
        for row in found["evaluations"]:
            print(f"  {row['step']:9,}  {row['kind']:7} {row['mean_return']:8.2f}")
    if args.out:
        write_whole(args.out, json.dumps(curves, indent=1) + "\n")


def curve(run: Path, every: int) -> dict[str, Any]:
    """Returns the learning curve of a run."""
    try:
        summary = json.loads((run / "summary.json").read_text())
        lines = (run / "eval.jsonl").read_text().splitlines()
        with open(run / "episodes.csv") as file:
            rows = [(int(row["steps"]), float(row["return"])) for row in csv.DictReader(file)]
        system = json.loads((run / "system.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        fail(f"{run} is not the folder of a finished run: {error}")
    intervals: dict[int, list[float]] = {}
    for steps, total in rows:
        intervals.setdefault((steps // every + 1) * every, []).append(total)
    return {
        "command": command_of(run),
        "machine": {name: system[name] for name in ("processor", "cores") if name in system},
        **{name: summary[name] for name in _KEYS if name in summary},
        "training": [
            {"steps": end, "episodes": len(totals), "mean_return": sum(totals) / len(totals)}
            for end, totals in sorted(intervals.items())
            if end <= summary["total_steps"]
        ],
        "evaluations": [json.loads(line) for line in lines],
    }


def command_of(run: Path) -> str:
    """Returns the command of a run, without paths of its machine."""
    words = (run / "command.txt").read_text().split()
    kept = ["fastdqn", *words[1:]]
    if "--run-dir" in kept:
        at = kept.index("--run-dir")
        del kept[at : at + 2]
    return " ".join(kept)


if __name__ == "__main__":
    main()
