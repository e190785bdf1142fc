"""Trains five presets with three seeds each, and says which has become worse than it was.

    python benchmarks/quality.py
    python benchmarks/quality.py --presets acrobot lunarlander
    python benchmarks/quality.py --store --seeds 1-10

The first takes about half an hour on two cores and exits with code 1 if a preset has become worse.
--store trains the runs that others are compared with, and writes results/quality.json. Their seeds
differ from those of a comparison. Not for timing: the runs share the cores.
"""

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.files.atomic_write import write_whole
from harness import count, fail, writable
from seeds import interval, run_seed

STORED = Path(__file__).parent / "results" / "quality.json"
# A smaller probability counts as worse. With ten stored values and three new ones five presets give
# a false alarm in one of 30 comparisons.
ALARM = 0.01
_MOST_GROUPS = 1_000_000


class Measured(NamedTuple):
    """What is compared of a preset.

    Attributes:
        name: Key of a run's results, see seeds.py.
        sign: 1 if larger values are better, -1 if smaller ones are.
        options: More options of `fastdqn train`.
        unsolved: Value of a run that was not solved; None where that does not matter.
    """

    name: str
    sign: int
    options: tuple[str, ...] = ()
    unsolved: float | None = None

    def value(self, run: dict[str, Any]) -> float:
        """Returns the value of the results of a run."""
        if self.unsolved is not None and run["solved"] is None:
            return self.unsolved
        return float(run[self.name])


PRESETS = {
    "cartpole-episodes": Measured("episodes", -1, unsolved=800.0),
    "acrobot": Measured("best_return", 1),
    "mountaincar": Measured("best_return", 1),
    # Half of its steps, after which most seeds can land.
    "lunarlander": Measured("best_return", 1, ("--total-timesteps", "100000")),
    "minatar-breakout": Measured("best_return", 1, ("--total-timesteps", "150000")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares how well presets learn.")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--seeds", type=seed_range, help="FIRST-LAST (1-10 with --store, 101-103)")
    parser.add_argument("--jobs", type=count, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--store", action="store_true", help="store the results")
    parser.add_argument("--out", type=writable, default=STORED, help="file of the stored results")
    args = parser.parse_args()
    stored = read(args.out) if args.out.exists() else {}
    seeds = args.seeds or (range(1, 11) if args.store else range(101, 104))
    for name in [] if args.store else args.presets:
        if line := problem(name, stored, seeds):
            fail(f"{args.out}: {line}")
    worse = []
    for name, values in trained(args.presets, seeds, args.jobs):
        if args.store:
            stored[name] = record(name, seeds, values)
            write_whole(args.out, json.dumps(stored, indent=1) + "\n")
            print(f"{name}: {mean_of(values)}", flush=True)
            continue
        print(verdict(name, stored[name]["values"], values), flush=True)
        worse += [name] * (chance(name, stored[name]["values"], values) < ALARM)
    sys.exit(1 if worse else 0)


def read(path: Path) -> dict[str, Any]:
    """Returns the stored results of a file."""
    try:
        stored = json.loads(path.read_text())
        for name, each in stored.items():
            _ = each["measure"], each["options"], each["seeds"], np.array(each["values"], float)
            if name in PRESETS and len(each["values"]) != len(each["seeds"]):
                raise ValueError(f"{name} has not as many values as seeds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"{path} is no file of stored results ({error}): use another --out, or --store")
    return stored


def seed_range(word: str) -> range:
    first, _, last = word.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise argparse.ArgumentTypeError(f"{word} must be seeds such as 101-103")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(
            f"{word} has no seeds: the first must not be above the last"
        )
    return seeds


def problem(name: str, stored: dict[str, Any], seeds: range) -> str:
    """Returns why runs with these seeds cannot be compared with the stored ones, or ''."""
    if name not in stored:
        return f"no {name}: use --store first"
    known, measured = stored[name], PRESETS[name]
    if [known["measure"], known["options"]] != [measured.name, list(measured.options)]:
        return f"{name} was stored with other options: use --store again"
    if used := set(known["seeds"]) & set(seeds):
        return f"seed {min(used)} of {name} was stored: use others"
    groups = math.comb(len(known["seeds"]) + len(seeds), len(seeds))
    if groups * ALARM <= 1:
        return f"{len(seeds)} seeds of {name} are too few to find a loss: use more"
    return f"{len(seeds)} seeds are too many: use fewer" if groups > _MOST_GROUPS else ""


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
            yield name, [PRESETS[name].value(each.result()) for each in futures]


def record(name: str, seeds: Sequence[int], values: list[float]) -> dict[str, Any]:
    measured = PRESETS[name]
    return {
        "measure": measured.name,
        "options": list(measured.options),
        "seeds": list(seeds),
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
        f"{name}: {word}. {PRESETS[name].name} {mean_of(now)}, stored {mean_of(before)}, change "
        f"{change:+.4g}; by chance as bad or worse: {p:.1%}"
    )


def mean_of(values: Sequence[float]) -> str:
    """Returns the mean with its interval, as a text."""
    low, high = interval(np.array(values))
    return f"{np.mean(values):.4g} ({low:.4g} to {high:.4g}, {len(values)} seeds)"


if __name__ == "__main__":
    main()
