"""Plots of the study: curves, last returns, overestimation, the classic claim."""

from typing import Any

from matplotlib import pyplot as plt

# Colour-blind safe (Okabe and Ito), in the order of the rows.
_COLOURS = (
    "#999999", "#E69F00", "#D55E00", "#000000", "#56B4E9", "#009E73", "#0072B2", "#CC79A7",
    "#F0E442", "#882255",
)  # fmt: skip


def draw_all(record: dict[str, Any]) -> dict[str, Any]:
    """Returns plots by file name, without those that have no data."""
    pictures = {"study-curves": draw_curves, "study-scores": draw_scores}
    made = {name: draw(record) for name, draw in pictures.items()}
    if any(points for rows in record["overestimation"].values() for points in rows.values()):
        made["study-overestimation"] = draw_overestimation(record)
    if record["classic"]["runs"]:
        made["study-classic"] = draw_classic(record["classic"])
    return made


def draw_curves(record: dict[str, Any]):
    """Draws interquartile means of evaluations by steps, with intervals, a line per row."""
    tasks = record["tasks"]
    figure, axes = _axes(len(tasks))
    for axis, (task, rows) in zip(axes, tasks.items(), strict=True):
        with_curve = {name: row for name, row in rows.items() if row["curve"]}
        for (name, row), colour in zip(with_curve.items(), _COLOURS, strict=False):
            _line(axis, row["curve"], lambda point: point, name, colour)
        axis.set_title(task, loc="left")
        axis.set_xlabel("steps")
        axis.set_ylabel("return of greedy episodes")
    axes[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_scores(record: dict[str, Any]):
    """Draws returns of the last weights: interquartile mean, interval, a dot per seed."""
    tasks = record["tasks"]
    figure, axes = _axes(len(tasks), height=4.0)
    for axis, (task, rows) in zip(axes, tasks.items(), strict=True):
        for place, row in enumerate(rows.values()):
            low, high = row["last"]["interval_95"]
            axis.plot([low, high], [place, place], color="#0072B2", linewidth=5, alpha=0.5)
            axis.plot(row["last"]["iqm"], place, "|", color="#0072B2", markersize=14)
            returns = row["last"]["returns"]
            axis.plot(returns, [place + 0.28] * len(returns), ".", color="#999999", markersize=3)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.invert_yaxis()
        axis.set_title(task, loc="left")
        axis.set_xlabel("return of the last weights")
    return figure


def draw_overestimation(record: dict[str, Any]):
    """Draws predicted (solid) and actual (dashed) discounted returns of first observations."""
    tasks = {task: rows for task, rows in record["overestimation"].items() if any(rows.values())}
    figure, axes = _axes(len(tasks))
    for axis, (task, rows) in zip(axes, tasks.items(), strict=True):
        for (name, points), colour in zip(rows.items(), ("#D55E00", "#0072B2"), strict=False):
            _line(axis, points, lambda point: point["predicted"], f"{name}: predicted", colour)
            _line(axis, points, lambda point: point["realised"], "realised", colour, "--")
        axis.set_title(task, loc="left")
        axis.set_xlabel("steps")
        axis.set_ylabel("discounted return")
        axis.legend(frameon=False, fontsize=7)
    return figure


def draw_classic(found: dict[str, Any]):
    """Draws the share of runs whose mean of 100 returns passed a threshold by each episode."""
    figure, (axis,) = _axes(1)
    axis.axvspan(200, 400, color="#DDDDDD")
    runs, end = found["runs"], max(found["episodes"])
    for threshold, colour in ((195, "#E69F00"), (475, "#0072B2")):
        at = sorted(episode for episode in found[f"episode_of_{threshold}"] if episode is not None)
        shares = [i / runs for i in range(len(at) + 1)]
        axis.step([0, *at, end], [*shares, shares[-1]], where="post", color=colour,
                  label=f"mean of 100 above {threshold}")  # fmt: skip
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("episode")
    axis.set_ylabel(f"share of {runs} runs")
    axis.set_title("classic DQN, CartPole-v1", loc="left")
    axis.legend(frameon=False, fontsize=7)
    return figure


def _axes(number: int, height: float = 3.4):
    figure, axes = plt.subplots(
        1, number, figsize=(5.6 * number, height), layout="constrained", squeeze=False
    )
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _line(axis, points: list[dict], read, name: str, colour: str, style: str = "-") -> None:
    steps = [point["step"] for point in points]
    low, high = zip(*(read(point)["interval_95"] for point in points), strict=True)
    axis.plot(steps, [read(p)["iqm"] for p in points], style, color=colour, label=name, linewidth=1)
    axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
