"""Matplotlib figure: curves and phases of runs in one image."""

import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style as mpl_style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from fastdqn.report.curves import (
    AXES,
    Center,
    Line,
    Over,
    Quantity,
    band,
    line,
    phases,
    quantity_of,
)
from fastdqn.report.seed_groups import Group, goal_of, shortened
from fastdqn.text import rounded

# Colour-blind safe: Okabe and Ito without yellow, then two colours of Paul Tol.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255",
)  # fmt: skip
# One colour for each phase, the same in every image.
PHASE_COLOURS = {
    "learn": "#0072B2", "env": "#E69F00", "act": "#009E73", "sample": "#CC79A7",
    "store": "#D55E00", "upload": "#F0E442", "prioritize": "#56B4E9", "evaluate": "#332288",
    "save": "#882255", "report": "#999999", "hooks": "#44AA99",
}  # fmt: skip
_WIDTH, _HEIGHT, _COLUMNS, _DPI = 4.6, 3.2, 3, 130
# Maximum characters of a name and of a line, and phases in a legend, so that curves have room.
_LONGEST, _LINE, _MOST_PHASES = 40, 60, 12
# Settings in one panel. More would hide each other.
_MOST_CURVES = 6
_GOAL: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "linestyle": ":"}
_BEST: dict[str, Any] = {
    "linestyle": "", "marker": "^", "markersize": 5, "fillstyle": "none", "alpha": 0.8,
}  # fmt: skip
_LAST: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4, "alpha": 0.8}


def write_figure(
    path: Path, groups: list[Group], curves: Sequence[str], over: Over, center: Center = "mean"
) -> None:
    """Writes a figure. The suffix of path selects the format.

    Args:
        path: File to write.
        groups: Runs by setting. More than six are drawn in a panel each.
        curves: Names for quantity_of(), and 'phases'.
        over: x axis.
        center: What is drawn of a setting with several runs.

    Raises:
        ValueError: No run has any of the curves.
    """
    draws = _panels(groups, curves, over, center)
    columns = 2 if len(draws) == 4 else min(_COLUMNS, len(draws))
    rows = math.ceil(len(draws) / columns)
    # Names are untrusted text: math is not parsed, and missing glyphs are not reported. A
    # matplotlibrc in the working directory is ignored.
    own = {"text.parse_math": False, "svg.hashsalt": "fastdqn"}
    with mpl_style.context(["default", own]):
        size = (_WIDTH * columns, _HEIGHT * rows + 0.4)
        figure = Figure(size, layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, draw in zip(axes, draws, strict=False):
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xlabel(AXES[over][0])
            axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
            draw(axis)
        for axis in axes[len(draws) :]:
            axis.set_visible(False)
        letters = _LINE if columns == 1 else 2 * _LINE
        figure.suptitle(textwrap.fill(_title(groups, center), letters), fontsize="medium")
        if handles := _legend(groups, curves):
            figure.legend(handles=handles, loc="outside lower center", frameon=False, ncols=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(path, dpi=_DPI, metadata=_dateless(path))


def _dateless(path: Path) -> dict[str, Any] | None:
    """Returns metadata without dates, so that equal runs give equal bytes."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())


def _panels(
    groups: list[Group], curves: Sequence[str], over: Over, center: Center
) -> list[Callable[[Any], None]]:
    """Returns a function for each panel that draws it on its axes."""
    draws: list[Callable[[Any], None]] = []
    for name in curves:
        if name != "phases":
            quantity = _quantity(name, groups)
            if any(len(line(run, quantity, over).x) for group in groups for run in group.runs):
                draws += _panels_of(groups, name, over, center)
            continue
        for group in groups:
            if (found := phases(group.runs, over)) is not None:
                draws.append(lambda axis, g=group, f=found: _draw_phases(axis, g, f, len(groups)))
    if not draws:
        raise ValueError(f"these runs have no data for {', '.join(curves)} over {over}")
    return draws


def _panels_of(
    groups: list[Group], name: str, over: Over, center: Center
) -> list[Callable[[Any], None]]:
    """Returns one panel for all settings, or one each if there are many."""
    if len(groups) <= _MOST_CURVES:
        return [lambda axis: _draw_curves(axis, groups, name, over, center)]
    return [
        lambda axis, own=place: _draw_curves(axis, groups, name, over, center, own)
        for place in range(len(groups))
    ]


def _draw_curves(
    axis, groups: list[Group], name: str, over: Over, center: Center, own: int | None = None
) -> None:
    """Draws a quantity. own: the setting of a panel, beside which the others are gray."""
    quantity = _quantity(name, groups)
    for place, group in sorted(enumerate(groups), key=lambda pair: pair[0] == own):
        colour, style = _look(place)
        lines = [line(run, quantity, over) for run in group.runs]
        mean = band(lines, center)
        if own not in (None, place):
            for each in [Line(mean.x, mean.mean)] if mean else lines:
                axis.plot(each.x, each.y, color="#CCCCCC", linewidth=0.8)
            continue
        faint = {"alpha": 0.3, "linewidth": 0.7} if mean else {"linewidth": 1.4}
        for each in lines:
            axis.plot(each.x, each.y, style, color=colour, **faint)
            if name == "evaluation" and len(each.x):
                _mark_weights(axis, each, colour)
        if mean:
            axis.plot(mean.x, mean.mean, style, color=colour, linewidth=1.6)
            axis.fill_between(mean.x, mean.low, mean.high, color=colour, alpha=0.2, linewidth=0)
    goal = goal_of(groups)
    if goal is not None and quantity.unit == "return":
        axis.axhline(goal, **_GOAL)
    axis.set_ylabel(quantity.unit)
    title = quantity.title if own is None else f"{quantity.title}: {groups[own].label}"
    axis.set_title(textwrap.fill(title, 44), loc="left", fontsize="medium")


def _quantity(name: str, groups: list[Group]) -> Quantity:
    return quantity_of(name, [run for group in groups for run in group.runs])


def _mark_weights(axis, evaluations: Line, colour: str) -> None:
    """Marks the best evaluation, which is selected, and the last, which is not."""
    best = len(evaluations.y) - 1 - int(evaluations.y[::-1].argmax())
    axis.plot(evaluations.x[best], evaluations.y[best], color=colour, **_BEST)
    axis.plot(evaluations.x[-1], evaluations.y[-1], color=colour, **_LAST)


def _look(place: int) -> tuple[str, Any]:
    """Returns the colour and line style of a group."""
    return COLOURS[place % len(COLOURS)], ("-", "--", ":")[place // len(COLOURS) % 3]


def _legend(groups: list[Group], curves: Sequence[str]) -> list[Line2D]:
    """Returns the entries of the legend: settings, the goal, and the marks of weights."""
    handles = []
    if 1 < len(groups) <= _MOST_CURVES:
        for place, group in enumerate(groups):
            colour, style = _look(place)
            label = f"{group.label} ({len(group.runs)})"
            handles.append(Line2D([], [], color=colour, linestyle=style, label=label))
    goal = goal_of(groups)
    if goal is not None and {"evaluation", "return"} & {*curves}:
        handles.append(Line2D([], [], label=f"goal {rounded(goal)}", **_GOAL))
    if "evaluation" in curves:
        handles.append(Line2D([], [], color="#555555", label="best weights", **_BEST))
        handles.append(Line2D([], [], color="#555555", label="last weights", **_LAST))
    return handles


def _draw_phases(axis, group: Group, found, groups: int) -> None:
    names = sorted(found.shares, key=lambda name: -found.shares[name].sum())
    labels = [shortened(name, _LONGEST // 2) for name in names[:_MOST_PHASES]]
    labels += ["_"] * (len(names) - len(labels))  # drawn, but not in the legend
    colours = [PHASE_COLOURS.get(name, "#BBBBBB") for name in names]
    stairs = [[*found.shares[name], found.shares[name][-1]] for name in names]
    axis.stackplot(found.edges, stairs, step="post", colors=colours, labels=labels, linewidth=0)
    axis.set_ylim(0, 1)
    axis.margins(x=0)
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.set_ylabel("share of time")
    title = textwrap.fill("time: " + group.label, 44) if groups > 1 else "time by phase"
    axis.set_title(title, loc="left", fontsize="medium")
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "reverse": True}
    axis.legend(frameon=False, fontsize="x-small", **place)


def _title(groups: list[Group], center: Center) -> str:
    runs = sum(len(group.runs) for group in groups)
    first = groups[0].runs[0]
    env_id = shortened(first.env_id, _LONGEST)
    if runs == 1:
        seed = shortened(str(first.config.get("seed")), _LONGEST)
        return f"{env_id}, {groups[0].label}, seed {seed}"
    many = any(len(group.runs) > 1 for group in groups)
    name = "interquartile mean" if center == "iqm" else "mean"
    suffix = f": {name} and 95 % bootstrap interval over seeds" if many else ""
    return f"{env_id}, {runs} runs{suffix}"
