"""Pages: `fastdqn plot` and `fastdqn report`, what a person sees of runs that are over."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdqn.cli import parser
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import WriteError, read_text
from fastdqn.files.output_files import out_problems, write_together
from fastdqn.report.run_data import read_runs
from fastdqn.report.seed_groups import group

_PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class PlotOptions:
    out: Path | None = None
    """File for the picture: .png, .svg or .pdf."""
    over: Literal["steps", "episodes", "time"] = "steps"
    """What curves are drawn over; time is that of the loop, in seconds."""
    curves: tuple[Literal["evaluation", "return", "q", "loss", "epsilon", "phases"], ...] = (
        "evaluation", "return", "phases",
    )  # fmt: skip
    """What to draw: returns of evaluations and of training, Q-values, loss, epsilon, and where the
    time went."""


@dataclass(frozen=True)
class ReportOptions:
    out: Path | None = None
    """File for the page, .html; None: report.html in the folder of the run."""
    bench: Path | None = None
    """Figures that fastdqn bench train --out FILE measured: their phases by both clocks are told
    beside those of the runs."""


def plot_runs(words: list[str]) -> str:
    """`fastdqn plot RUN... --out FILE.png`; returns what to print. Raises ConfigError."""
    runs, rest = _runs(words)
    chosen, lines = parser.parse(rest, PlotOptions(), "fastdqn plot RUN...")
    out = chosen.out
    if out is None:
        lines.append("plot needs --out FILE.png, or .svg, or .pdf")
    elif out.suffix.lower() not in _PICTURES:
        lines.append(f"out is {str(out)!r}: the name of a picture ends in .png, .svg or .pdf")
    if not chosen.curves:
        lines.append("curves has no value: name what to draw")
    groups = _groups(runs, "plot", [*lines, *out_problems(out), *_missing("matplotlib", "scipy")])
    assert out is not None
    from fastdqn.report.matplotlib_figure import write_figure

    return _write(out, lambda path: write_figure(path, groups, chosen.curves, chosen.over))


def report_runs(words: list[str]) -> str:
    """`fastdqn report RUN... [--out FILE.html]`; returns what to print. Raises ConfigError."""
    runs, rest = _runs(words)
    chosen, lines = parser.parse(rest, ReportOptions(), "fastdqn report RUN...")
    out = chosen.out
    if out is None and len(runs) == 1:
        out = Path(runs[0], "report.html")
    elif out is None and runs:
        lines.append("a report of several runs needs --out FILE.html")
    elif out is not None and out.suffix.lower() not in (".html", ".htm"):
        lines.append(f"out is {str(out)!r}: the name of a page ends in .html")
    clocks = []
    try:
        clocks = [] if chosen.bench is None else _clocks(chosen.bench)
    except ValueError as error:
        lines.append(str(error))
    problems = out_problems(chosen.out)
    groups = _groups(runs, "report", [*lines, *problems, *_missing("jinja2", "scipy")])
    assert out is not None
    from fastdqn.report.html_page import render

    text = render(groups, json.loads(Config().to_json()), clocks)
    return _write(out, lambda path: path.write_bytes(text.encode(errors="replace")))


def _clocks(path: Path) -> list[dict]:
    """The rows that tell phases by a clock. Raises ValueError."""
    rows = []
    for line in read_text(path, follow=True).splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"bench is {str(path)!r}: no lines of JSON in it") from None
        if isinstance(row, dict) and isinstance(row.get("phase_seconds"), dict):
            rows.append({"clock": "plain", **row})
    if not rows:
        raise ValueError(f"bench is {str(path)!r}: no phases in it; fastdqn bench train --out FILE")
    return rows


def _runs(words: list[str]) -> tuple[list[str], list[str]]:
    """The folders, and the options behind them."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:count], words[count:]


def _groups(runs: list[str], command: str, lines: list[str]):
    """The runs by their settings. Raises ConfigError with lines, and what is wrong with runs."""
    if not runs:
        lines.append(f"{command} needs folders of runs first: fastdqn {command} RUN... [options]")
    records = []
    try:
        records = read_runs(runs)
    except ConfigError as error:
        lines += error.lines
    if lines:
        raise ConfigError(lines)
    return group(records)


def _missing(*packages: str) -> list[str]:
    lacks = [name for name in packages if importlib.util.find_spec(name) is None]
    return [f"{' and '.join(lacks)} not installed: pip install 'fastdqn[report]'"] if lacks else []


def _write(out: Path, write) -> str:
    """Write a file, whole or not at all. Raises ConfigError."""
    try:
        write_together(out.absolute().parent, {out.name: write})
    except (WriteError, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    return f"written: {out}"
