"""Formats of results on standard output: CSV, Markdown and JSON."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastdqn.bench.results import Figure
from fastdqn.files.atomic_write import to_json

_NUMBERS = ("median", "min", "max", "spread", "calls")
# The setting that all rows of phases have.
_CLOCK = "clock"


def as_csv(figures: Sequence[Figure], rows: Sequence[dict[str, Any]]) -> str:
    """Returns one long table: a header, a line for each figure, and one for each phase of a loop.

    Numbers have four digits and no exponent. The unit is a column.
    """
    settings = (name for figure in figures for name in figure.of)
    names = list(dict.fromkeys([*settings, _CLOCK]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "what", "unit", *names, *_NUMBERS])
    for figure in figures:
        what, unit = _what_and_unit(figure)
        of = [figure.of.get(name, "") for name in names]
        writer.writerow([figure.part, what, unit, *of, *_numbers(figure, plain)])
    for row, name, share in _phases(rows):
        of = [row.get(setting, "") for setting in names]
        numbers = [plain(share), *[""] * (len(_NUMBERS) - 1)]
        writer.writerow(["train", f"phase {name}", "share of time", *of, *numbers])
    return text.getvalue().rstrip("\n")


def as_markdown(figures: Sequence[Figure], rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table for each kind of figure, and one of the phases of the loop."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault("{}, {} ({})".format(figure.part, *_what_and_unit(figure)), []).append(
            figure
        )
    tables = []
    for title, group in groups.items():
        names = list(dict.fromkeys(name for figure in group for name in figure.of))
        lines = [
            [*(str(each.of.get(name, "")) for name in names), *_numbers(each, grouped)]
            for each in group
        ]
        tables.append(_table(title, names, _NUMBERS, lines))
    found = list(_phases(rows))
    if found:
        names = [name for name in (_CLOCK, "num_envs") if any(name in row for row, _, _ in found)]
        lines = [
            [*(str(row.get(n, "")) for n in names), name, f"{100 * share:.1f} %"]
            for row, name, share in found
        ]
        tables.append(_table("train, phases (share of time)", [*names, "phase"], ["share"], lines))
    return "\n\n".join(tables)


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """Returns all rows, with the header, as one array."""
    return to_json(list(rows), indent=1)


def plain(number: float) -> str:
    """Returns a number with four digits, without exponent and separators."""
    rounded = float(f"{number:.4g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:.12f}".rstrip("0").rstrip(".")


def grouped(number: float) -> str:
    """Returns a number with four digits and separators of thousands."""
    return f"{int(plain(number)):,}" if abs(number) >= 1000 else plain(number)


def _what_and_unit(figure: Figure) -> tuple[str, str]:
    """Returns the name of a figure, and its unit, such as steps/s."""
    what = figure.key.removesuffix("_per_second")
    return what, f"{what.rpartition('_')[2]}/s"


def _numbers(figure: Figure, text: Any) -> list[str]:
    rate = figure.rate
    return [*map(text, (rate.median, rate.least, rate.most, rate.spread)), str(rate.calls)]


def _phases(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, float]]:
    """Yields the row, name and share of the time of each phase, the largest of a loop first."""
    for row in rows:
        phases = row.get("phase_seconds", {})
        total = sum(phases.values())
        for name, seconds in sorted(phases.items(), key=lambda item: -item[1]):
            yield row, name, seconds / total if total else 0.0


def _table(
    title: str, names: Sequence[str], numbers: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
    right = ["---:" if name in numbers else "---" for name in (*names, *numbers)]
    cells = [[*names, *numbers], right, *([c.replace("|", "\\|") for c in line] for line in lines)]
    return f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in cells)
