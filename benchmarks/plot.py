"""Plots of results: speeds of peers, costs of a transition, learning from pixels, the study.

    python benchmarks/plot.py

Reads benchmarks/results/peers.json, train.json, pixels.json and study.json where they are there,
and writes peers.png, costs.png, pixels.png and study-*.png beside them. Needs matplotlib (extra
report).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

import study_pictures

RESULTS = Path(__file__).parent / "results"
# Colour-blind safe (Okabe and Ito): one colour for each phase of the loop.
COLOURS = {
    "learn": "#0072B2", "env": "#E69F00", "act": "#009E73", "sample": "#CC79A7",
    "store": "#D55E00", "report": "#999999", "upload": "#F0E442", "prioritize": "#56B4E9",
}  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--results", type=Path, default=RESULTS)
    folder = asked.parse_args().results
    pictures = (("peers", draw_peers), ("train", draw_costs), ("pixels", draw_pixels))
    for name, draw in pictures:
        source = folder / f"{name}.json"
        if source.exists():
            figure = draw(json.loads(source.read_text()))
            target = folder / ("costs.png" if name == "train" else f"{name}.png")
            figure.savefig(target, dpi=110)
            plt.close(figure)
            print(target)
    study = folder / "study.json"
    if study.exists():
        for name, figure in study_pictures.draw_all(json.loads(study.read_text())).items():
            figure.savefig(folder / f"{name}.png", dpi=110)
            plt.close(figure)
            print(folder / f"{name}.png")


def draw_peers(record: dict[str, Any]):
    """Draws a bar for each peer and workload, by ascending speed, with its range."""
    workloads = record["results"]
    figure, axes = plt.subplots(
        1, len(workloads), figsize=(5.2 * len(workloads), 3.2), layout="constrained", squeeze=False
    )
    for axis, workload in zip(axes[0], workloads, strict=True):
        peers = workloads[workload]
        names = sorted(peers, key=lambda name: peers[name]["steps_per_second"]["median"])
        rows = [peers[name] for name in names]
        medians = [row["steps_per_second"]["median"] / 1e3 for row in rows]
        spread = [
            [
                m - row["steps_per_second"]["min"] / 1e3
                for m, row in zip(medians, rows, strict=True)
            ],
            [
                row["steps_per_second"]["max"] / 1e3 - m
                for m, row in zip(medians, rows, strict=True)
            ],
        ]
        colours = ["#0072B2" if name == "fastdqn" else "#999999" for name in names]
        axis.barh(names, medians, xerr=spread, color=colours, ecolor="#444444")
        axis.set_xlabel("thousand steps per second")
        axis.set_title(f"workload {workload}", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_costs(record: dict[str, Any]):
    """Draws microseconds per transition, stacked by phase, over each sweep."""
    sweeps = record["sweeps"]
    figure, axes = plt.subplots(
        1, len(sweeps), figsize=(4.2 * len(sweeps), 3.4), layout="constrained", squeeze=False
    )
    for axis, (name, points) in zip(axes[0], sweeps.items(), strict=True):
        labels = [f"{point[name]:,}" for point in points]
        bottom = [0.0] * len(points)
        for phase, colour in COLOURS.items():
            heights = [point["us_per_step"].get(phase, 0.0) for point in points]
            if max(heights) > 0.01 * max(sum(p["us_per_step"].values()) for p in points):
                axis.bar(labels, heights, bottom=bottom, color=colour, label=phase)
                bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        axis.set_title(name.replace("_", " "), loc="left")
        axis.set_ylabel("us per step")
        axis.tick_params(axis="x", rotation=45)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    return figure


def draw_pixels(runs: list[dict[str, Any]]):
    """Draws training returns from pixels, one panel per preset. Dots are greedy evaluations."""
    presets = list(dict.fromkeys(preset_of(run) for run in runs))
    figure, axes = plt.subplots(
        1, len(presets), figsize=(4.4 * len(presets), 3.2), layout="constrained", squeeze=False
    )
    for axis, preset in zip(axes[0], presets, strict=True):
        for run, colour in zip(
            [run for run in runs if preset_of(run) == preset], COLOURS.values(), strict=False
        ):
            points = run["training"]
            axis.plot(
                [point["steps"] / 1e3 for point in points],
                [point["mean_return"] for point in points], color=colour, label=told_of(run),
            )  # fmt: skip
            judged = [row for row in run["evaluations"] if row["kind"] == "eval"]
            axis.plot(
                [row["step"] / 1e3 for row in judged], [row["mean_return"] for row in judged],
                ".", color=colour,
            )  # fmt: skip
        axis.set_title(preset, loc="left")
        axis.set_xlabel("thousand steps")
        axis.set_ylabel("return")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
    return figure


def preset_of(run: dict[str, Any]) -> str:
    return run["command"].split()[2]


def told_of(run: dict[str, Any]) -> str:
    """Returns the label of a run among others of its preset."""
    words = run["command"].split()
    torso = f"{words[words.index('--torso') + 1]}, " if "--torso" in words else ""
    return f"{torso}seed {words[words.index('--seed') + 1]}"


if __name__ == "__main__":
    main()
