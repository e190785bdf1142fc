"""RunProgress: how far a run is, read from the files that it is writing."""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn.files.durable_write import TEMPORARY
from fastdqn.logging.eta import ETA
from fastdqn.report.run_data import number

# Bytes at the end of a file that are read for its newest row, of some hundred bytes. Not tuned.
_TAIL = 1 << 14
_ROWS = "metrics.jsonl"


class Status(NamedTuple):
    """Newest numbers of a run. None: not known yet.

    Attributes:
        steps: Environment steps so far.
        share: Fraction of the budget that is spent, in [0, 1].
        recent: Mean return of the recent training episodes.
        evaluation: Mean return of the last evaluation.
        rate: Environment steps per second.
        seconds_left: Remaining seconds of the training loop.
    """

    steps: int = 0
    share: float = 0.0
    recent: float | None = None
    evaluation: float | None = None
    rate: float | None = None
    seconds_left: float | None = None


class RunProgress:
    """Reads the progress of a run.

    Args:
        folder: Run folder, which need not exist yet.
        total_timesteps, total_episodes: The budget. None: no limit.
    """

    def __init__(self, folder: Path, total_timesteps: int | None, total_episodes: int | None):
        self._folder, self._eta = folder, ETA()
        self._timesteps, self._episodes = total_timesteps, total_episodes

    @property
    def written(self) -> float:
        """Time of the newest rows, as in the modification times of files. 0: there are none."""
        return _written(self._source())

    def read(self) -> Status:
        """Returns the newest numbers."""
        source = self._source()
        metrics = newest_row(source / _ROWS, "time/total_timesteps")
        if metrics is None:
            return Status()
        evaluation = newest_row(source / "eval.jsonl", "mean_return")
        steps = int(_number(metrics, "time/total_timesteps") or 0)
        episodes = _number(metrics, "rollout/episodes") or 0.0
        share = max(_share(steps, self._timesteps), _share(episodes, self._episodes))
        elapsed = _number(metrics, "time/time_elapsed") or 0.0
        # Steps before the first update are far faster than those that are left.
        random = _number(metrics, "train/n_updates") == 0
        left = None if random else self._eta(elapsed, share)
        return Status(
            steps, share, _number(metrics, "rollout/ep_rew_mean"),
            None if evaluation is None else _number(evaluation, "mean_return"),
            _number(metrics, "time/fps"), left,
        )  # fmt: skip

    def _source(self) -> Path:
        """Returns the folder with the newest rows."""
        return max(self._folder, live_folder(self._folder), key=_written)


def live_folder(run: Path) -> Path:
    """Returns the folder where rows of a run arrive while another machine trains it."""
    return run.with_name(f"{TEMPORARY}live-{run.name}")


def newest_row(path: Path, name: str, **equal: Any) -> dict[str, Any] | None:
    """Returns the last complete row of a JSON Lines file that has a value of this name, or None.

    Args:
        path: The file, which may be missing.
        name: A number that the row must have.
        **equal: Other values that it must have.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).split(b"\n")[:-1]  # the last may be incomplete
    except OSError:
        return None
    for line in reversed(lines[1:] if start else lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or _number(row, name) is None:
            continue
        if all(row.get(key) == value for key, value in equal.items()):
            return row
    return None


def _written(folder: Path) -> float:
    try:
        return (folder / _ROWS).stat().st_mtime
    except OSError:
        return 0.0


def _number(row: dict[str, Any], name: str) -> float | None:
    value = number(row.get(name))
    return None if math.isnan(value) else value


def _share(count: float, total: int | None) -> float:
    return min(1.0, count / total) if total else 0.0
