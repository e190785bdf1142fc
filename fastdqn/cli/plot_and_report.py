"""The plot and report commands: figures and HTML reports of finished runs."""

import difflib
import importlib.util
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdqn.cli import parser
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import WriteError, read_text
from fastdqn.files.output_files import out_problems, write_together
from fastdqn.report.curves import QUANTITIES, column_of, columns
from fastdqn.report.run_data import read_runs
from fastdqn.report.seed_groups import LONGEST_LABEL, Group, StudyVariant, group, shortened
from fastdqn.study.changed_runs import changed_runs, left_out, recorded_left_out
from fastdqn.study.run_progress import newest_row
from fastdqn.study.study_folder import is_study, names_no_run, read_study

_PICTURES = (".png", ".svg", ".pdf")

Curve = Literal["evaluation", "return", "q", "loss", "epsilon", "phases"]


@dataclass(frozen=True)
class PlotOptions:
    out: Path | None = None
    """Output file: .png, .svg or .pdf."""
    over: Literal["steps", "episodes", "time"] = "steps"
    """The x axis. time: seconds in the training loop."""
    curves: tuple[Curve | str, ...] = ("evaluation", "return", "phases")
    """What to plot: returns of evaluations and training, Q-values, loss, epsilon, phase times, or
    columns of metrics.jsonl and eval.jsonl."""
    labels: tuple[str, ...] = ()
    """Names of the settings, in the order of the runs. None: the options in which they differ."""
    center: Literal["mean", "iqm"] = "mean"
    """What is drawn of a setting with several seeds. iqm: interquartile mean."""


@dataclass(frozen=True)
class ReportOptions:
    out: Path | None = None
    """Output file, .html. None: report.html in the run folder, if there is only one run."""
    bench: Path | None = None
    """Output of `fastdqn bench train --out FILE`. Its phase times are shown next to those of the
    runs."""


def plot_runs(words: list[str], changed: Collection[str] | None = None) -> str:
    """Runs `fastdqn plot RUN... --out FILE.png`. Returns what to print. Raises ConfigError.

    changed: names of the runs of a study that are left out, which has been printed. None: those
    that were changed after they started, which is printed.
    """
    runs, rest = _runs(words)
    chosen, lines = parser.parse(rest, PlotOptions(), "fastdqn plot RUN...")
    out = chosen.out
    if out is None:
        lines.append("plot needs --out FILE.png, FILE.svg or FILE.pdf")
    elif out.suffix.lower() not in _PICTURES:
        lines.append(f"out is {str(out)!r}: it must end in .png, .svg or .pdf")
    if not chosen.curves:
        lines.append("curves has no value: name what to plot")
    lines += [*out_problems(out), *_missing("matplotlib", "scipy")]
    groups, notes = _groups(runs, "plot", lines, changed)
    assert out is not None
    groups = _relabeled(groups, chosen.labels)
    _require_columns(groups, chosen.curves)
    from fastdqn.report.matplotlib_figure import write_figure

    written = _write(
        out, lambda path: write_figure(path, groups, chosen.curves, chosen.over, chosen.center)
    )
    return "\n".join([*notes, written])


def report_runs(words: list[str], changed: Collection[str] | None = None) -> str:
    """Runs `fastdqn report RUN... [--out FILE.html]`. Returns what to print. Raises ConfigError.

    changed: as in plot_runs().
    """
    runs, rest = _runs(words)
    chosen, lines = parser.parse(rest, ReportOptions(), "fastdqn report RUN...")
    out = chosen.out
    if out is None and len(runs) == 1:
        out = Path(runs[0], "report.html")
    elif out is None and runs:
        lines.append("a report of several runs needs --out FILE.html")
    elif out is not None and out.suffix.lower() not in (".html", ".htm"):
        lines.append(f"out is {str(out)!r}: it must end in .html")
    clocks = []
    try:
        clocks = [] if chosen.bench is None else _clocks(chosen.bench)
    except ValueError as error:
        lines.append(str(error))
    lines += [*out_problems(chosen.out), *_missing("jinja2", "scipy")]
    groups, notes = _groups(runs, "report", lines, changed)
    assert out is not None
    from fastdqn.report.html_page import render

    text = render(groups, json.loads(Config().to_json()), clocks)
    written = _write(out, lambda path: path.write_bytes(text.encode(errors="replace")))
    return "\n".join([*notes, written])


def _clocks(path: Path) -> list[dict]:
    """Returns the rows with phase times. Raises ValueError."""
    rows = []
    for line in read_text(path, follow=True).splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"bench is {str(path)!r}: it contains no JSON lines") from None
        if isinstance(row, dict) and isinstance(row.get("phase_seconds"), dict):
            rows.append({"clock": "plain", **row})
    if not rows:
        raise ValueError(
            f"bench is {str(path)!r}: it contains no phases. Use fastdqn bench train --out FILE"
        )
    return rows


def _runs(words: list[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into run folders and options."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:count], words[count:]


def _groups(
    runs: list[str], command: str, lines: list[str], changed: Collection[str] | None
) -> tuple[list[Group], list[str]]:
    """Returns (the runs grouped by settings, lines to print). Raises ConfigError with all errors.

    changed: as in plot_runs().
    """
    if not runs:
        lines.append(f"{command} needs folders of runs first: fastdqn {command} RUN... [options]")
    records, variants, notes = [], [], []
    try:
        folders, variants, notes = _expanded(runs, changed)
        records = read_runs(folders)
    except ConfigError as error:
        lines += error.lines
    if lines:
        raise ConfigError(lines)
    return group(records, variants), notes


def _require_columns(groups: list[Group], curves: tuple[str, ...]) -> None:
    """Raises ConfigError for the name of a curve that no run has."""
    runs, own = [run for group in groups for run in group.runs], [*QUANTITIES, "phases"]
    unknown = [name for name in curves if name not in own and column_of(name, runs) is None]
    if not unknown:
        return
    found = [*own, *columns(runs)]
    ends = {each.rpartition("/")[2]: each for each in reversed(found)} | {e: e for e in found}
    lines = []
    for name in unknown:
        near = dict.fromkeys(ends[each] for each in difflib.get_close_matches(name, ends))
        hint = f"did you mean {' or '.join(near)}? Others" if near else "curves"
        lines.append(
            f"unknown curve {name!r}: {hint} are {', '.join(own)}, and each name in the rows of "
            "metrics.jsonl and eval.jsonl"
        )
    raise ConfigError(lines)


def _relabeled(groups: list[Group], labels: tuple[str, ...]) -> list[Group]:
    """Returns the groups with other labels. Raises ConfigError if there are not as many."""
    if not labels:
        return groups
    if len(labels) != len(groups):
        found = ", ".join(repr(each.label) for each in groups)
        raise ConfigError(
            [f"labels has {len(labels)} names for {len(groups)} settings: give one for each of "
             f"{found}"]
        )  # fmt: skip
    own = (shortened(label, LONGEST_LABEL) for label in labels)
    return [each._replace(label=label) for each, label in zip(groups, own, strict=True)]


def _expanded(
    folders: list[str], changed: Collection[str] | None
) -> tuple[list[str], list[StudyVariant | None], list[str]]:
    """Replaces the folder of a study by its runs that have metrics, variant by variant.

    Returns (run folders, variant of each, or None, lines about runs that are left out). Raises
    ConfigError.
    """
    runs: list[tuple[str, StudyVariant | None]] = []
    notes = []
    for each in folders:
        if not is_study(Path(each)):
            if other := names_no_run(each):
                raise ConfigError([f"{each} is {other}"])
            runs.append((each, None))
            continue
        study = read_study(Path(each))
        begun = [run for run in study.runs(Path(each)) if _has_metrics(run.folder)]
        if not begun:
            raise ConfigError([f"no run of the study {each} has metrics yet: try again later"])
        found = {}
        if changed is None:
            known, names = recorded_left_out(Path(each)), {run.name for run in begun}
            found = {name: text for name, text in known.items() if name in names}
            found |= changed_runs(begun)
        notes += left_out(found)
        begun = [run for run in begun if run.name not in (found if changed is None else changed)]
        if not begun:
            raise ConfigError([*notes, f"no run of the study {each} is left to show"])
        begun.sort(key=lambda run: study.variants.index(run.variant))  # keeps the order of seeds
        runs += [(str(run.folder), StudyVariant(each, run.variant.label)) for run in begun]
    return [folder for folder, _ in runs], [variant for _, variant in runs], notes


def _has_metrics(folder: Path) -> bool:
    has_config = (folder / "config.json").is_file()
    return has_config and newest_row(folder / "metrics.jsonl", "step") is not None


def _missing(*packages: str) -> list[str]:
    lacks = [name for name in packages if importlib.util.find_spec(name) is None]
    return [f"{' and '.join(lacks)} not installed: pip install 'fastdqn[report]'"] if lacks else []


def _write(out: Path, write) -> str:
    """Writes a file completely or not at all. Raises ConfigError."""
    try:
        write_together(out.absolute().parent, {out.name: write})
    except (WriteError, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    return f"written: {out}"
