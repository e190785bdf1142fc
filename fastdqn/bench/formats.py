"""Formats of results on standard output: CSV, Markdown and JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from fastdqn.bench.results import Figure
from fastdqn.files.atomic_write import to_json

_RATES = ("per_second", "min", "max", "spread", "calls")


def as_csv(figures: Sequence[Figure]) -> str:
    """Returns a header and a line for each figure."""
    text = io.StringIO()
    names, lines = _cells(figures)
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    return text.getvalue().rstrip("\n")


def as_markdown(figures: Sequence[Figure]) -> str:
    """Returns a table with a row for each figure."""
    names, lines = _cells(figures)
    right = ["---:" if name in _RATES else "---" for name in names]
    rows = [names, right, *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """Returns all rows, with the header, as one array."""
    return to_json(list(rows), indent=1)


def _cells(figures: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    """Returns the names of the columns, and a line of text for each figure."""
    settings = list(dict.fromkeys(name for figure in figures for name in figure.of))
    lines = []
    for figure in figures:
        rate = figure.rate
        numbers = (f"{each:.4g}" for each in (rate.median, rate.least, rate.most, rate.spread))
        of = (str(figure.of.get(name, "")) for name in settings)
        what = figure.key.removesuffix("_per_second")
        lines.append([figure.part, what, *of, *numbers, str(rate.calls)])
    return ["part", "what", *settings, *_RATES], lines
