"""RunRecord: reads and validates the files of runs for figures and reports."""

import json
import math
import os
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.config.info_keys import InfoMean
from fastdqn.config.schema import ConfigError, current_names
from fastdqn.files.atomic_write import read_lines, read_text

# Columns by name: float64[rows], NaN for a missing value.
Columns = dict[str, np.ndarray]
_LARGEST = 1e30  # larger numbers count as missing, so that sums do not overflow
_DEEPEST = 20  # maximum nesting of JSON values; files of a run have three levels
_GAPS = 4 << 20  # missing values that are allowed while a file is read
# Required files. Others may be missing if a run has just started, or was copied in part.
_NEEDED = ("config.json", "metrics.jsonl")


class RunRecord(NamedTuple):
    """Content of a run folder.

    Attributes:
        folder: Run folder.
        config: Content of config.json.
        system: Content of system.json.
        summary: Content of summary.json, empty while a run is in progress.
        command: Command line.
        metrics: Columns of metrics.jsonl, by ascending step.
        evaluations: Columns of eval.jsonl, by ascending step: evaluations during training only.
        all_ended: Steps after which each environment had finished an episode, by episodes.csv. NaN
            if one never did, or if that is not known.
    """

    folder: Path
    config: dict[str, Any]
    system: dict[str, Any]
    summary: dict[str, Any]
    command: str
    metrics: Columns
    evaluations: Columns
    all_ended: float = math.nan

    @property
    def env_id(self) -> str:
        name = str(self.config.get("env_id"))
        return f"{name} (passed from Python: {self.handed_in})" if self.handed_in else name

    @property
    def handed_in(self) -> str:
        """Name of the environments if they were passed from Python, else an empty string."""
        given = self.system.get("handed_in")
        return str(given.get("envs") or "") if isinstance(given, dict) else ""


def read_runs(folders: list[str]) -> list[RunRecord]:
    """Reads runs of one environment.

    Raises:
        ConfigError: A folder is not of a run, or the environments differ. A line for each folder.
    """
    records, lines = [], []
    for folder in folders:
        try:
            records.append(_read_run(Path(folder)))
        except (OSError, ValueError) as error:
            lines.append(" ".join(str(error).split()))
    twice = {r.folder.resolve() for r in records}
    if not lines and len(twice) < len(records):
        lines.append("a run is given twice: leave one out")
    env_ids = list(dict.fromkeys(record.env_id for record in records))
    if not lines and len(env_ids) > 1:
        lines.append(
            f"runs of {' and '.join(env_ids)} cannot be compared: give runs of one environment"
        )
    if lines:
        raise ConfigError(lines)
    return records


def number(value: Any) -> float:
    """Converts a JSON value to float. NaN for other types and for very large numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) <= _LARGEST else math.nan


def info_of(key: str, evaluation: dict[str, Any]) -> InfoMean | None:
    """Returns the mean of a key of info in an evaluation of eval.jsonl or summary.json, or None."""
    name = f"mean_{key}"
    mean, episodes = number(evaluation.get(name)), number(evaluation.get("episodes"))
    count = number(evaluation.get(f"{name}_episodes", evaluation.get("episodes")))
    if not all(map(math.isfinite, (mean, count, episodes))):
        return None
    return InfoMean(mean, int(count), int(episodes))


def _read_run(folder: Path) -> RunRecord:
    """Reads a run. Raises ValueError with one line."""
    for name in _NEEDED:
        if not (folder / name).exists():
            raise ValueError(f"{folder} is not the folder of a run: it has no {name}")
    config = current_names(_read_object(folder / "config.json"), warns=False)
    summary = _read_object(folder / "summary.json")
    metrics = _read_rows(folder / "metrics.jsonl")
    if not metrics:
        why = summary.get("exit_reason", "it has just started: try again later")
        raise ValueError(f"{folder} has no metrics yet: {why}")
    return RunRecord(
        folder, config, _read_object(folder / "system.json"), summary,
        _read_if_there(folder / "command.txt", "replace").strip(), metrics,
        _read_rows(folder / "eval.jsonl", kind="eval"),
        _all_ended(folder / "episodes.csv", config.get("num_envs")),
    )  # fmt: skip


def _all_ended(path: Path, num_envs: Any) -> float:
    """Returns the steps after which each environment had finished an episode, or NaN.

    Rows that are no episodes are skipped. Reading ends as soon as the answer is known.
    """
    if not isinstance(num_envs, int) or not os.path.lexists(path):
        return math.nan
    ended = set[bytes]()
    for line in read_lines(path):
        _, steps, env, *_ = [*line.split(b",", 3), b"", b""]
        if steps.isdigit() and len(steps) < 20 and env.isdigit():
            ended.add(env)
            if len(ended) >= num_envs:
                return float(steps)
    return math.nan


def _read_if_there(path: Path, errors: str = "strict") -> str:
    return read_text(path, errors) if path.exists() else ""


def _read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file, empty if there is no file. Raises ValueError."""
    text = _read_if_there(path)
    if not text and not path.exists():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    if not _is_flat(found):
        raise ValueError(f"{path} is nested more than {_DEEPEST} levels deep")
    return found


def _is_flat(value: Any, left: int = _DEEPEST) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_flat(each, left - 1) for each in inner)


def _read_rows(path: Path, kind: str | None = None) -> Columns:
    """Returns the columns of a JSON Lines file, of rows of one kind.

    An unfinished last line is left out.
    """
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
            raise ValueError(f"{path}, line {count}: not a JSON object with a step")
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
    """Raises ValueError if most values are missing: columns would be far larger than the file."""
    if len(columns) * rows > size:
        raise ValueError(
            f"{path}: {len(columns):,} names in {rows:,} rows, but most values are missing"
        )
