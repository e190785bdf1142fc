"""SVG charts: lines, bands and stacked areas, with axes and a table of numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastdqn.report.curves import Band, Line, Phases

# Size and margins of the plot, in SVG units. The page scales the whole chart.
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 416, 12, 228
_POINTS = 300  # maximum points of a line: more would not be visible
_ROWS = 12  # maximum rows of the table of a chart


class Series(NamedTuple):
    """Curves of one setting.

    Attributes:
        label: Label in the legend.
        look: Index of its colour.
        lines: Curve of each run.
        mean: Mean over runs, or None.
        dashed: Whether to draw dashed lines, beside another series of the same colour.
    """

    label: str
    look: int
    lines: list[Line]
    mean: Band | None = None
    dashed: bool = False


class Mark(NamedTuple):
    """Tick of an axis: its position and label."""

    place: float
    label: str


class Stroke(NamedTuple):
    """Line or area of a chart.

    Attributes:
        path: SVG path.
        kind: CSS class: line, faint, band, dashed or area.
        look: CSS class of its colour.
        label: What it shows.
    """

    path: str
    kind: str
    look: str
    label: str = ""


class Chart(NamedTuple):
    """Chart for the page.

    Attributes:
        name: Id of the element.
        title: Title of the chart.
        over: Label of the x axis.
        x_marks, y_marks: Ticks.
        strokes: Lines and areas.
        goal: y position of the horizontal line for stop_at_return, or None.
        legend: (colour, kind, label) of each entry.
        heads, rows: Table of the numbers.
        x, y: Scales of the axes, for scripts.
        unit: Label of the y axis.
    """

    name: str
    title: str
    over: str
    x_marks: list[Mark]
    y_marks: list[Mark]
    strokes: list[Stroke]
    goal: float | None
    legend: list[tuple[str, str, str]]
    heads: list[str]
    rows: list[list[str]]
    x: "Scale"
    y: "Scale"
    unit: str = ""


class Scale(NamedTuple):
    """Linear map from [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def curves_chart(
    name: str,
    title: str,
    over: str,
    series: Sequence[Series],
    goal: float | None = None,
    unit: str = "",
) -> Chart | None:
    """Returns a chart of lines and means with intervals, or None without points."""
    series = [each for each in series if any(len(line.x) for line in each.lines)]
    if not series:
        return None
    lines = [line for each in series for line in each.lines if len(line.x)]
    x = Scale(0.0, max(max(line.x[-1] for line in lines), 1e-9), LEFT, RIGHT)
    heights = [line.y for line in lines] + ([] if goal is None else [np.array([goal])])
    y = _span(np.concatenate(heights), BOTTOM, TOP)
    strokes = [stroke for each in series for stroke in _strokes(each, x, y)]
    legend = [(f"s{s.look}", "dashed" if s.dashed else "line", s.label) for s in series]
    return Chart(
        name, title, over, _marks(x), _marks(y), strokes,
        None if goal is None else round(float(y(np.array(goal))), 1),
        legend, [over, *(each.label for each in series)], _table(series), x, y, unit,
    )  # fmt: skip


def phases_chart(name: str, title: str, over: str, found: Phases) -> Chart:
    """Returns a stacked chart of phases, with the largest at the bottom."""
    x, y = Scale(0.0, float(found.edges[-1]), LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    names = sorted(found.shares, key=lambda phase: -found.shares[phase].sum())
    floor = np.zeros(len(found.edges) - 1)
    strokes = []
    for phase in names:
        ceiling = floor + found.shares[phase]
        path = _steps(x(found.edges), y(floor), y(ceiling))
        strokes.append(Stroke(path, "area", look(phase), phase))
        floor = ceiling
    picked = np.unique(np.linspace(0, len(floor) - 1, min(_ROWS, len(floor))).astype(int))
    rows = [
        [f"{short(float(found.edges[i]))} to {short(float(found.edges[i + 1]))}"]
        + [f"{found.shares[phase][i]:.0%}" for phase in names]
        for i in picked
    ]
    marks = [Mark(float(y(np.array(share))), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    legend = [(look(phase), "area", phase) for phase in names]
    return Chart(
        name, title, over, _marks(x), marks, strokes, None, legend, [over, *names], rows, x, y,
        "share of time",
    )  # fmt: skip


PHASES = (
    "learn", "env", "act", "sample", "store", "upload", "prioritize", "evaluate", "save", "report",
    "hooks",
)  # fmt: skip


def look(phase: str) -> str:
    """Returns the CSS class of the colour of a phase, the same in every chart."""
    return f"p{PHASES.index(phase)}" if phase in PHASES else "p9"


def short(number: float) -> str:
    """Formats a number for an axis or a table, such as 250 k and 0.035."""
    if not math.isfinite(number):
        return "-"
    for limit, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(number) >= limit:
            return f"{number / (1e3 if letter == ' k' else limit):.4g}{letter}"
    return f"{number:.4g}"


def _span(values: np.ndarray, start: float, end: float) -> Scale:
    """Returns a scale from the minimum to the maximum of values with margins, never empty."""
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low)
    if room < 1e-12 * max(1.0, abs(high)):  # all values are equal
        room = 0.05 * max(1.0, abs(high))
    return Scale(low - room, high + room, start, end)


def _marks(scale: Scale, most: int = 5) -> list[Mark]:
    """Returns ticks at multiples of 1, 2, 2.5 or 5 times a power of ten."""
    wide = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(wide))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= wide * 0.999)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    values = np.arange(first, last + 1) * step
    return [Mark(round(float(scale(value)), 1), short(float(value))) for value in values]


def _strokes(series: Series, x: Scale, y: Scale) -> list[Stroke]:
    colour, mean = f"s{series.look}", series.mean
    own = "dashed" if series.dashed else "line"
    kind = own if mean is None else "faint"
    lines = [_thin(line) for line in series.lines if len(line.x)]
    found = [Stroke(_path(x(line.x), y(line.y)), kind, colour, series.label) for line in lines]
    if mean is not None:
        there_and_back = np.concatenate((mean.x, mean.x[::-1]))
        ends = np.concatenate((mean.low, mean.high[::-1]))
        found.append(Stroke(_path(x(there_and_back), y(ends)) + "Z", "band", colour))
        found.append(Stroke(_path(x(mean.x), y(mean.mean)), own, colour, series.label))
    return found


def _thin(line: Line) -> Line:
    """Limits a line to _POINTS points, and keeps both ends."""
    if len(line.x) <= _POINTS:
        return line
    kept = np.unique(np.linspace(0, len(line.x) - 1, _POINTS).astype(int))
    return Line(line.x[kept], line.y[kept])


def _path(x: np.ndarray, y: np.ndarray) -> str:
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]
    # A single point is drawn as a line of zero length, which round line caps turn into a dot.
    return "M" + " L".join(points if len(points) > 1 else points * 2)


def _steps(edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Returns the path of the area between two step functions."""
    at = np.repeat(edges, 2)[1:-1]
    x = np.concatenate((at, at[::-1]))
    return _path(x, np.concatenate((np.repeat(high, 2), np.repeat(low, 2)[::-1]))) + "Z"


def _table(series: Sequence[Series]) -> list[list[str]]:
    """Returns the values of all series at some points of the first one."""
    first = max((line for line in series[0].lines), key=lambda line: len(line.x))
    places = _common(first.x, series)
    picked = np.unique(np.linspace(0, len(places) - 1, min(_ROWS, len(places))).astype(int))
    return [[short(at), *(_value_text(each, at) for each in series)] for at in places[picked]]


def _common(places: np.ndarray, series: Sequence[Series]) -> np.ndarray:
    """Moves the ends of ascending places to those of the means, where they are closer than a gap.

    Runs of one total end some steps apart, beyond which a mean over all of them has no value.
    """
    gap = (places[-1] - places[0]) / max(1, len(places) - 1)
    means = [each.mean.x for each in series if each.mean is not None]
    start = max([places[0], *(x[0] for x in means if x[0] - places[0] < gap)])
    end = min([places[-1], *(x[-1] for x in means if places[-1] - x[-1] < gap)])
    return np.unique(np.clip(places, start, end))


def _value_text(series: Series, at: float) -> str:
    """Formats the mean with its interval, or the values of the lines, or '-'."""
    if (mean := series.mean) is not None and mean.x[0] <= at <= mean.x[-1]:
        value, low, high = (np.interp(at, mean.x, y) for y in (mean.mean, mean.low, mean.high))
        return f"{short(value)} [{short(low)}, {short(high)}]"
    there = [line for line in series.lines if len(line.x) and line.x[0] <= at <= line.x[-1]]
    values = [float(np.interp(at, line.x, line.y)) for line in there]
    return ", ".join(map(short, values)) or "-"
