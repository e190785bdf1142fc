"""Runs: what a run's folder tells, read and checked, for pictures and pages."""

import json
import math
import os
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import read_lines, read_text

# Numbers by name: float64 [rows], NaN where a row lacks one.
Columns = dict[str, np.ndarray]
_LARGEST = 1e30  # ours: far beyond any return, and far from what overflows when it is added up
_DEEPEST = 20  # values within values; ours: those of a run's own files are three deep
_GAPS = 4 << 20  # values that may be missing while a file is read; ours
# Without these there is no run; the rest is missing where it just began, or was copied in part.
_NEEDED = ("config.json", "metrics.jsonl")


class RunRecord(NamedTuple):
    """A run as its folder tells it.

    config, system, summary  as they are in the files; summary is empty while a run goes on
    command  as it was typed
    metrics, evaluations  rows by ascending step, in the column 'step'; evaluations are those that
             were made while it trained
    """

    folder: Path
    config: dict[str, Any]
    system: dict[str, Any]
    summary: dict[str, Any]
    command: str
    metrics: Columns
    evaluations: Columns

    @property
    def env_id(self) -> str:
        name = str(self.config.get("env_id"))
        return f"{name} (handed in: {self.handed_in})" if self.handed_in else name

    @property
    def handed_in(self) -> str:
        """Name of what made the environments, where they were not made of env_id; else ''."""
        given = self.system.get("handed_in")
        return str(given.get("envs") or "") if isinstance(given, dict) else ""


def read_runs(folders: list[str]) -> list[RunRecord]:
    """Runs of one environment. Raises ConfigError, a line for each folder that is none."""
    records, lines = [], []
    for folder in folders:
        try:
            records.append(_read_run(Path(folder)))
        except (OSError, ValueError) as error:
            lines.append(" ".join(str(error).split()))
    twice = {r.folder.resolve() for r in records}
    if not lines and len(twice) < len(records):
        lines.append("a run is named twice: it would count twice")
    env_ids = list(dict.fromkeys(record.env_id for record in records))
    if not lines and len(env_ids) > 1:
        lines.append(
            f"runs of {' and '.join(env_ids)} have no common scale: name those of one environment"
        )
    if lines:
        raise ConfigError(lines)
    return records


def number(value: Any) -> float:
    """A value of JSON as a float; NaN where it is no number that could be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) <= _LARGEST else math.nan


def _read_run(folder: Path) -> RunRecord:
    """Raises ValueError, one line."""
    for name in _NEEDED:
        if not (folder / name).exists():
            raise ValueError(f"{folder} is no folder of a run: it has no {name}")
    config = _read_object(folder / "config.json")
    summary = _read_object(folder / "summary.json")
    metrics = _read_rows(folder / "metrics.jsonl")
    if not metrics:
        why = summary.get("exit_reason", "it has just begun: try again when it has")
        raise ValueError(f"{folder} has no row of metrics yet: {why}")
    return RunRecord(
        folder, config, _read_object(folder / "system.json"), summary,
        _read_if_there(folder / "command.txt", "replace").strip(), metrics,
        _read_rows(folder / "eval.jsonl", kind="eval"),
    )  # fmt: skip


def _read_if_there(path: Path, errors: str = "strict") -> str:
    return read_text(path, errors) if path.exists() else ""


def _read_object(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty where there is no file. Raises ValueError."""
    text = _read_if_there(path)
    if not text and not path.exists():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object of named values")
    if not _is_flat(found):
        raise ValueError(f"{path} holds values within values, more than {_DEEPEST} deep")
    return found


def _is_flat(value: Any, left: int = _DEEPEST) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_flat(each, left - 1) for each in inner)


def _read_rows(path: Path, kind: str | None = None) -> Columns:
    """Rows as columns, of one kind; a last line that is still being written is left out."""
    if not os.path.lexists(path):
        return {}
    columns: dict[str, array[float]] = {}
    rows = size = 0
    for count, line in enumerate(read_lines(path), 1):
        size += len(line)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or math.isnan(number(row.get("step"))):
            raise ValueError(f"{path}, line {count}: no row of metrics, with its step")
        if kind is not None and row.get("kind") != kind:
            continue
        for name in row.keys() - columns.keys():
            columns[name] = array("d", [math.nan]) * rows
        rows += 1
        for name, column in columns.items():
            column.append(number(row.get(name)))
        _require_values(path, columns, rows, size + _GAPS)
    _require_values(path, columns, rows, size)
    if not rows:
        return {}
    order = np.argsort(np.array(columns["step"]), kind="stable")
    return {name: np.array(column)[order] for name, column in columns.items()}


def _require_values(path: Path, columns: dict[str, Any], rows: int, size: int) -> None:
    """Raises ValueError where columns are gaps, for the most part: they would take many times the
    file."""
    if len(columns) * rows > size:
        told = f"{len(columns):,} names in {rows:,} rows"
        raise ValueError(f"{path}: {told}, few of them with a value")
