"""Trains five presets with three seeds each, and says which has become worse than it was.

    python benchmarks/quality.py
    python benchmarks/quality.py --presets acrobot lunarlander
    python benchmarks/quality.py --store --seeds 1-10

The first takes about half an hour on two cores and exits with code 1 if a preset has become worse.
--store trains the runs that others are compared with, and writes results/quality.json. Its seeds
and those of a comparison should differ. Not for timing: the runs share the cores.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seeds import interval, run_seed

STORED = Path(__file__).parent / "results" / "quality.json"
# A smaller probability is called a loss. Five presets then give a false alarm in one of 20 cases.
ALARM = 0.01


class Measured(NamedTuple):
    """What is compared of a preset.

    Attributes:
        name: Key of a run's results, see seeds.py.
        sign: 1 if larger values are better, -1 if smaller ones are.
        options: More options of `fastdqn train`.
    """

    name: str
    sign: int
    options: tuple[str, ...] = ()


PRESETS = {
    "cartpole-episodes": Measured("episodes", -1),
    "acrobot": Measured("best_return", 1),
    "mountaincar": Measured("best_return", 1),
    "lunarlander": Measured("best_return", 1, ("--total-timesteps", "100000")),
    "minatar-breakout": Measured("best_return", 1, ("--total-timesteps", "150000")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares how well presets learn.")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--seeds", type=seed_range, default=range(101, 104), help="FIRST-LAST")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--store", action="store_true", help="store the results")
    parser.add_argument("--out", type=Path, default=STORED, help="file of the stored results")
    args = parser.parse_args()
    stored = json.loads(args.out.read_text()) if args.out.exists() else {}
    if not args.store and (missing := [name for name in args.presets if name not in stored]):
        sys.exit(f"error: {args.out} has no {' or '.join(missing)}: use --store first")
    worse = []
    for name, values in trained(args.presets, args.seeds, args.jobs):
        if args.store:
            stored[name] = record(name, args.seeds, values)
            args.out.write_text(json.dumps(stored, indent=1) + "\n")
            print(f"{name}: {told(values)}", flush=True)
            continue
        print(verdict(name, stored[name]["values"], values), flush=True)
        worse += [name] * (chance(name, stored[name]["values"], values) < ALARM)
    sys.exit(1 if worse else 0)


def seed_range(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)


def trained(presets: Sequence[str], seeds: Sequence[int], jobs: int):
    """Yields (preset, its values) when all of its seeds have ended."""
    extra = ["--threads", "1"]
    with ThreadPoolExecutor(jobs) as pool:
        runs = {
            name: [
                pool.submit(run_seed, name, seed, None, [*extra, *PRESETS[name].options])
                for seed in seeds
            ]
            for name in presets
        }
        for name, futures in runs.items():
            yield name, [float(each.result()[PRESETS[name].name]) for each in futures]


def record(name: str, seeds: Sequence[int], values: list[float]) -> dict[str, Any]:
    measured = PRESETS[name]
    return {
        "measure": measured.name,
        "options": list(measured.options),
        "seeds": f"{seeds[0]}-{seeds[-1]}",
        "values": values,
        "mean": float(np.mean(values)),
        "interval_95": interval(np.array(values)),
    }


def chance(name: str, before: Sequence[float], now: Sequence[float]) -> float:
    """Returns how likely a mean as bad as that of now is, if both are from one distribution.

    By all divisions of the joined values into groups of these sizes: an exact permutation test.
    """
    values = PRESETS[name].sign * np.array([*now, *before])
    groups = itertools.combinations(range(len(values)), len(now))
    means = np.array([values[list(group)].mean() for group in groups])
    return float(np.mean(means <= values[: len(now)].mean() + 1e-9))


def verdict(name: str, before: Sequence[float], now: Sequence[float]) -> str:
    p = chance(name, before, now)
    change = float(np.mean(now) - np.mean(before))
    word = "WORSE" if p < ALARM else "as before"
    return (
        f"{name}: {word}. {PRESETS[name].name} {told(now)}, stored {told(before)}, change "
        f"{change:+.4g}; by chance as bad or worse: {p:.1%}"
    )


def told(values: Sequence[float]) -> str:
    low, high = interval(np.array(values))
    return f"{np.mean(values):.4g} ({low:.4g} to {high:.4g}, {len(values)} seeds)"


if __name__ == "__main__":
    main()
