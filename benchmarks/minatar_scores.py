r"""Collects studies of MinAtar's games into a table and a picture, next to published scores.

    for game in asterix breakout freeway seaquest space-invaders; do
        fastdqn train minatar-$game --seeds 1-5 --threads 1 --jobs 2 --run-dir runs/minatar/$game
    done
    python benchmarks/minatar_scores.py runs/minatar --out benchmarks/results/minatar.json \
        --figure benchmarks/results/minatar.png

Studies may have variants (--vs), which are compared by the interquartile mean over the games.

The file of --out keeps the runs of earlier calls, so games and seeds may be trained one after
another, or on several machines.

Training returns are those of the episodes that ended in the last tenth of the frames, with the
exploration of the preset. Greedy returns are of the best weights, on seeds that decided nothing.
"""

import argparse
import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastdqn.files.atomic_write import write_whole
from fastdqn.report.seed_groups import FREE
from fastdqn.report.statistics import iqm, stratified_bootstrap
from fastdqn.study.study_folder import read_study, summary_of
from harness import fail, writable

# DQN of Young and Tian 2019 (arXiv 1903.03176) after five million frames, by its figure.
DQN = {"asterix": 17.0, "breakout": 10.0, "freeway": 50.0, "seaquest": 20.0, "space-invaders": 44.0}
_POINTS = 40  # of a learning curve
_LAST = 0.1
_OF_A_GAME = ("env_id", "env_kwargs", "preset")
# Runs by game and by the label of their variant.
Found = dict[str, dict[str, list[dict[str, Any]]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", type=Path, help="folder with a study for each game")
    parser.add_argument("--out", type=writable, help="JSON file of the results")
    parser.add_argument("--figure", type=writable, help="PNG file of the picture")
    args = parser.parse_args()
    games = {game: args.studies / game for game in DQN if (args.studies / game).is_dir()}
    if not games:
        fail(f"{args.studies} has no study: name one {', '.join(DQN)}")
    earlier = read(args.out) if args.out and args.out.exists() else {}
    new = {game: runs_of(folder) for game, folder in games.items()}
    found = {game: joined(game, earlier, new) for game in DQN if game in earlier | new}
    record: dict[str, Any] = {"games": {game: of_game(game, runs) for game, runs in found.items()}}
    record["all games, in parts of the published scores"] = of_all(found)
    print(table(record))
    if args.out:
        write_whole(args.out, json.dumps(record | stored(found), indent=1) + "\n")
    if args.figure:
        picture(found, args.figure)


def stored(found: Found) -> dict[str, Any]:
    """Returns what read() reads. The options of a variant, which are many, are stored once."""
    variants = [(game, label, runs) for game in found for label, runs in found[game].items()]
    options, results = dict[str, Any](), dict[str, Any]()
    for game, label, runs in variants:
        results.setdefault(game, {})[label] = [
            {name: value for name, value in run.items() if name != "options"} for run in runs
        ]
        if runs:
            options.setdefault(game, {})[label] = runs[0]["options"]
    return {"runs": results, "options": options}


def read(path: Path) -> Found:
    """Returns the runs of a file that stored() describes."""
    try:
        record = json.loads(path.read_text())
        options = record["options"]
        return {
            game: {
                label: [{**read_run(run), "options": options[game][label]} for run in runs]
                for label, runs in variants.items()
            }
            for game, variants in record["runs"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"{path} is no results file of this script ({error!r}): use another --out")


def read_run(run: dict[str, Any]) -> dict[str, Any]:
    whole = {name: run[name] for name in ("seed", "frames", "wall_seconds", "training", "greedy")}
    curve = [None if value is None else float(value) for value in run["curve"]]
    if len(curve) != _POINTS:
        raise ValueError(f"a curve has {len(curve)} points, not {_POINTS}")
    return {**whole, "curve": curve}


def joined(game: str, earlier: Found, new: Found) -> dict[str, list[dict[str, Any]]]:
    """Returns the runs of a game, by label. New runs replace those with the same seed."""
    result = dict[str, list[Any]]()
    before, after = earlier.get(game, {}), new.get(game, {})
    for label in before | after:
        runs = {run["seed"]: run for each in (before, after) for run in each.get(label, ())}
        result[label] = [runs[seed] for seed in sorted(runs)]
        if different := differences(result[label]):
            fail(
                f"{game}, {label}: runs of this study and of --out differ in "
                f"{', '.join(different)}: use another --out"
            )
    return result


def differences(runs: list[dict[str, Any]], apart: Sequence[str] = ()) -> list[str]:
    """Returns what is not the same in all runs: their length, and options that affect learning."""
    names = set(itertools.chain(*(run["options"] for run in runs))) - {*apart}
    values = {name: {repr(run["options"].get(name, ...)) for run in runs} for name in names}
    frames = [run["frames"] for run in runs]
    # A run ends a few frames after its budget.
    longer = ["frames"] if frames and max(frames) > 1.01 * min(frames) else []
    return longer + sorted(name for name, each in values.items() if len(each) > 1)


def runs_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the finished runs of a study, by the label of their variant."""
    study = read_study(folder)
    found: dict[str, list[dict[str, Any]]] = {each.label: [] for each in study.variants}
    for run in study.runs(folder):
        summary = summary_of(run.folder)
        if summary is not None:
            found[run.variant.label].append(of_run(run.folder, summary))
    return found


def of_run(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns returns and the learning curve of a run."""
    with open(folder / "episodes.csv") as file:
        rows = [(int(row["steps"]), float(row["return"])) for row in csv.DictReader(file)]
    steps, returns = np.array(rows, np.float64).reshape(-1, 2).T
    frames = summary["total_steps"]
    ends = np.linspace(0, frames, _POINTS + 1)
    parts = [returns[(steps > low) & (steps <= high)] for low, high in itertools.pairwise(ends)]
    return {
        "seed": summary["seed"],
        "options": learning_options(folder),
        "frames": frames,
        "wall_seconds": summary["wall_seconds"],
        "training": mean_of(returns[steps > (1 - _LAST) * frames]),
        "greedy": (summary["eval"] or {}).get("mean_return"),
        "curve": [None if not len(part) else round(part.mean(), 3) for part in parts],
    }


def learning_options(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in config.items() if name not in FREE}


def mean_of(returns: np.ndarray) -> float | None:
    return float(returns.mean()) if len(returns) else None


def of_game(game: str, variants: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns means and intervals of the variants of a game."""
    return {
        "published DQN after five million frames": DQN[game],
        "variants": {
            label: {
                "seeds": [run["seed"] for run in runs],
                "frames": runs[0]["frames"],
                **{name: summarized(name, runs) for name in ("training", "greedy")},
            }
            for label, runs in variants.items()
            if runs
        },
    }


def summarized(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [run[name] for run in runs]
    if None in values:
        return {"values": values}
    scores = np.array(values)[:, None]
    return {"values": values, "mean": float(scores.mean()), **with_interval(scores)}


def with_interval(scores: np.ndarray) -> dict[str, Any]:
    """Returns IQM and 95 % stratified bootstrap interval of scores [R, T], as rliable does."""
    return {"iqm": float(iqm(scores)), "interval_95": stratified_bootstrap(scores)}


def of_all(found: Found) -> dict[str, Any]:
    """Returns the IQM of each variant that all games have, over the seeds that all of them have."""
    result = {}
    for label in common_labels(found):
        runs = common_runs(found, label)
        columns = [[run["training"] for run in runs[game]] for game in runs]
        if all(columns) and None not in itertools.chain(*columns):
            scores = np.array(columns).T / [DQN[game] for game in runs]
            result[label] = {"seeds": len(scores), "games": len(runs), **with_interval(scores)}
    return result


def common_labels(found: Found) -> list[str]:
    """Returns the variants of which every game has runs, with the same options in all games."""
    labels = [{label for label, runs in each.items() if runs} for each in found.values()]
    return sorted(
        label
        for label in set.intersection(*labels)
        if not differences([run for each in found.values() for run in each[label]], _OF_A_GAME)
    )


def common_runs(found: Found, label: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the runs of a variant whose seeds all games have, by game."""
    seeds = set.intersection(*({run["seed"] for run in each[label]} for each in found.values()))
    return {
        game: [run for run in each[label] if run["seed"] in seeds] for game, each in found.items()
    }


def table(record: dict[str, Any]) -> str:
    lines = []
    for game, found in record["games"].items():
        published = found["published DQN after five million frames"]
        lines.append(f"\n{game}: published {published:g}")
        for label, each in found["variants"].items():
            texts = [f"{name} {text_of(each[name])}" for name in ("training", "greedy")]
            lines.append(f"  {label:24} {len(each['seeds'])} seeds  {'  '.join(texts)}")
    for label, each in record["all games, in parts of the published scores"].items():
        lines.append(
            f"\n{each['games']} games, {each['seeds']} seeds, {label}: "
            f"IQM {each['iqm']:.2f} of the published scores"
        )
    return "\n".join(lines)


def text_of(found: dict[str, Any]) -> str:
    if "mean" not in found:
        return "-"
    ends = found["interval_95"]
    return f"{found['mean']:.1f}" + ("" if ends is None else f" ({ends[0]:.1f} to {ends[1]:.1f})")


def picture(found: Found, path: Path) -> None:
    """Draws the learning curves of each game, and the IQM over the games in the last panel."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), constrained_layout=True)
    panels = axes.ravel()
    labels = list(dict.fromkeys(itertools.chain(*found.values())))
    colors = {label: f"C{at}" for at, label in enumerate(labels)}
    for panel, (game, variants) in zip(panels, found.items(), strict=False):
        for label, runs in variants.items():
            if runs:
                draw(panel, [curves_of(runs)], runs, colors[label])
        panel.axhline(DQN[game], color="0.5", linestyle="--", linewidth=1)
        panel.set_title(f"{game}: training return")
    last = panels[len(found)]
    for label in common_labels(found):
        by_game = common_runs(found, label)
        if all(by_game.values()):
            scaled = [curves_of(runs) / DQN[game] for game, runs in by_game.items()]
            draw(last, scaled, next(iter(by_game.values())), colors[label])
    last.axhline(1.0, color="0.5", linestyle="--", linewidth=1)
    last.set_title("interquartile mean, parts of the published")
    for panel in panels[: len(found) + 1]:
        panel.set_xlabel("million frames")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(found) + 1 :]:
        panel.set_axis_off()
    if len(labels) > 1:
        lines = [Line2D([], [], color=color) for color in colors.values()]
        panels[0].legend(lines, labels, frameon=False)
    figure.savefig(path, dpi=110)


def curves_of(runs: list[dict[str, Any]]) -> np.ndarray:
    """Returns float64[R, P], NaN where no episode ended."""
    return np.array([run["curve"] for run in runs], np.float64)


def draw(panel: Any, curves: list[np.ndarray], runs: list[dict[str, Any]], color: str) -> None:
    """Draws the IQM of curves, [R, P] for each game, with its interval."""
    scores = np.stack(curves, -1)  # [R, P, T]
    frames = np.linspace(0, runs[0]["frames"], scores.shape[1] + 1)[1:] / 1e6
    known = ~np.isnan(scores).any((0, 2))
    points = [scores[:, at] for at in np.flatnonzero(known)]
    if not points:
        return
    panel.plot(frames[known], [iqm(point) for point in points], color=color)
    ends = [stratified_bootstrap(point, resamples=2_000) for point in points]
    if None not in ends:
        low, high = zip(*ends, strict=True)
        panel.fill_between(frames[known], low, high, alpha=0.2, color=color)


if __name__ == "__main__":
    main()
