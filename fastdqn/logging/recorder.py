"""RunRecorder: writes the metrics, episodes, evaluations and weights of a run."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdqn.config.info_keys import counted, info_columns, info_mean, info_metric
from fastdqn.config.recorded_numbers import EPISODE_COLUMNS
from fastdqn.files.append_file import AppendFile
from fastdqn.files.atomic_write import to_json, write_whole
from fastdqn.files.disk_error_policy import DiskErrors, EndRun, Keeper
from fastdqn.files.durable_write import make_folder
from fastdqn.files.open_folder import Where, open_file, path_of
from fastdqn.logging.console import Display
from fastdqn.logging.eta import ETA
from fastdqn.logging.metric_rows import aside_seconds, metric_row, status
from fastdqn.logging.metric_sinks import JsonLines, MetricsSink
from fastdqn.state_dict import (
    State,
    StateError,
    take,
    take_count,
    take_list,
    take_number,
    take_seconds,
    take_state,
)
from fastdqn.text import rounded

# Number of recent episodes for means, as in Stable-Baselines3.
_WINDOW = 100
_CHUNK = 1 << 16  # bytes of a file read at a time; not tuned


class RunRecorder:
    """Writes metrics.jsonl, episodes.csv, eval.jsonl, the weights and summary.json.

    Args:
        folder: Run folder.
        display: Console display.
        sinks: Additional sinks of metric rows.
        save: Writes the current weights to a path.
        spent: Returns the fraction of the budget that is spent from (steps, episodes).
        on_evaluation: User callback, called with (steps, kind, evaluation).
        frames_a_step: Emulator frames of a step, or None.
        disk_errors: Creates the policy for files that cannot be written.
        info_keys: Keys of Step.info, each a column of episodes.csv.
    """

    def __init__(
        self,
        folder: Where,
        display: Display,
        sinks: list[MetricsSink],
        save: Callable[[Where], None],
        spent: Callable[[int, int], float],
        on_evaluation: Callable[[int, str, Any], Any] | None = None,
        frames_a_step: int | None = None,
        disk_errors: Callable[[Callable[[str], None]], DiskErrors] = EndRun,
        info_keys: tuple[str, ...] = (),
    ):
        self.place, self.folder = folder, path_of(folder)
        self._display, self._save, self._spent = display, save, spent
        self._on_evaluation, self._frames_a_step = on_evaluation, frames_a_step
        with contextlib.ExitStack() as opened:  # closes all if a later one fails
            for each in (display, *sinks):
                opened.callback(each.close)
            self._metrics = JsonLines(folder / "metrics.jsonl")
            opened.callback(self._metrics.close)
            self._evals = JsonLines(folder / "eval.jsonl")
            opened.callback(self._evals.close)
            self._episodes = AppendFile(folder / "episodes.csv")
            opened.pop_all()
        self._sinks = [self._metrics, *sinks]
        if self._episodes.size == 0:
            self._episodes.write(",".join([*EPISODE_COLUMNS, *info_keys]) + "\n")
        self._info: dict[str, deque[float]] = {key: deque(maxlen=_WINDOW) for key in info_keys}
        self.known_info: set[str] = set()  # keys that an episode had, of training or evaluation
        self._returns: deque[float] = deque(maxlen=_WINDOW)
        self._lengths: deque[int] = deque(maxlen=_WINDOW)
        self._last: dict[str, float] = {}  # seconds of each phase at the last report
        self._shown: dict[str, float] = {}  # newest value of each metric
        self._last_steps = self._last_updates = 0
        self._eta = ETA()
        self._status: dict[str, Any] | None = None  # as it was shown last
        self._eval_return: float | None = None
        self.warnings: list[str] = []
        self.disk = disk_errors(self.warn)
        self._keeper = Keeper(self.disk)
        self._sizes: dict[str, int] = {}  # file sizes in the loaded state

    def prepare(self) -> None:
        """Loads what the first report needs, so that its time is not measured."""
        for sink in self._sinks:
            sink.prepare()

    def episodes(self, progress, step) -> None:
        """Records the episodes that ended in step, which progress already counts.

        Raises:
            WriteError: The file cannot be written.
        """
        first = progress.episodes - len(step.ended_lanes) + 1
        returns, lengths = step.returns.tolist(), step.lengths.tolist()
        ended = zip(step.ended_lanes.tolist(), returns, lengths, strict=True)
        columns = [self._column(step, key) for key in self._info]
        lines = [
            f"{first + i},{progress.steps},{lane},{_return(total)},{length}"
            + "".join(f",{_cell(column[i])}" for column in columns)
            + "\n"
            for i, (lane, total, length) in enumerate(ended)
        ]
        for window, column in zip(self._info.values(), columns, strict=True):
            window.extend(column)
        with self.disk.around("episodes.csv"):
            self._episodes.write("".join(lines))
        self._returns.extend(returns)
        self._lengths.extend(lengths)

    def report(
        self, progress, epsilon: float, report, totals: dict[str, float], final: bool = False
    ) -> None:
        """Writes a row of metrics, with rates over the time since the last row.

        A rate is left out if nothing was done since then. The display keeps the last one.
        """
        since = {name: total - self._last.get(name, 0.0) for name, total in totals.items()}
        steps, updates = progress.steps - self._last_steps, progress.updates - self._last_updates
        self._last, self._last_steps, self._last_updates = (
            dict(totals), progress.steps, progress.updates,
        )  # fmt: skip
        elapsed = sum(totals.values())
        row = metric_row(
            progress, epsilon, report, since, steps, updates, elapsed,
            self._returns, self._lengths, self._frames_a_step,
        )  # fmt: skip
        for key, window in self._info.items():
            if (found := info_mean(counted(key, window, self.known_info))) is not None:
                row |= info_columns(info_metric(key), found)
        row |= progress.take_logged()
        self._write_row(progress.steps, row)
        self._flush_episodes()
        self._keeper.retry()
        self._shown |= row
        spent = self._spent(progress.steps, progress.episodes)
        # Steps before the first update are far faster than those that are left.
        left = self._eta(elapsed, spent, aside_seconds(totals)) if progress.updates else None
        self._status = status(
            progress, self._shown, spent, left, self._eval_return, len(self._returns)
        )
        self._display.show(self._status, final)

    def _column(self, step, key: str) -> Sequence[float]:
        """Returns the values of a key at the episode ends of a step, NaN where one is missing."""
        column = (step.info or {}).get(key, np.full(len(step.ended_lanes), np.nan))
        if not np.isnan(column).all():
            self.known_info.add(key)
        return counted(key, column.tolist(), self.known_info)

    def evaluation(self, steps: int, kind: str, evaluation) -> None:
        """Records a greedy evaluation of kind 'eval', 'confirm', 'final' or 'last'."""
        summary = evaluation.summary()
        self._eval_return = summary["mean_return"]
        with self.disk.around(self._evals.name):
            self._evals.write(steps, {"kind": kind, **summary})
        row = {
            "eval/mean_reward": summary["mean_return"],
            "eval/mean_ep_length": summary["mean_length"],
        }
        for key, found in evaluation.info_means().items():
            row |= info_columns(info_metric(key, "eval"), found)
        if evaluation.predicted is not None:
            row["eval/predicted_return"] = summary["mean_predicted"]
            row["eval/discounted_return"] = summary["mean_discounted"]
        if kind in ("eval", "confirm"):
            self._display.say(
                f"step {steps:>9,}  evaluation: return {rounded(summary['mean_return'])} over "
                f"{summary['episodes']} greedy episodes"
                + (" to confirm" if kind == "confirm" else "")
                + (f", {summary['cut_episodes']} cut" if summary["cut_episodes"] else "")
            )
        if self._status is not None and kind in ("final", "last"):  # the last frame of a panel
            ended = {"eval_return": self._eval_return, "seconds_left": 0.0}
            self._status = {**self._status, **ended}
            self._display.show(self._status, final=True)
        if kind == "eval":
            self._write_row(steps, row)
        if self._on_evaluation is not None:
            self._on_evaluation(steps, kind, evaluation)

    def save_best(self) -> None:
        """Saves the current weights as best.safetensors."""
        self._keeper.save(self.place / "best.safetensors", self._save)

    def save_last(self) -> None:
        """Saves the current weights as policy.safetensors."""
        self._keeper.save(self.place / "policy.safetensors", self._save)

    def save_snapshot(self, steps: int) -> None:
        """Saves the current weights as snapshots/step-NUMBER.safetensors."""
        folder = self.place / "snapshots"
        with self.disk.around("a snapshot"):
            make_folder(folder)
        self._keeper.save(folder / f"step-{steps:012d}.safetensors", self._save)

    def settle(self) -> None:
        """Retries all failed writes for the last time. Raises WriteError."""
        self._keeper.settle()
        for file in self._files().values():
            file.flush()

    def state(self) -> State:
        """Returns recent episodes, totals and the sizes of the files, for cut_back()."""
        self._flush_episodes()
        return {
            "returns": np.array(self._returns, np.float64),
            "lengths": np.array(self._lengths, np.int64),
            "last": dict(self._last),
            "last_steps": self._last_steps,
            "last_updates": self._last_updates,
            "eval_return": self._eval_return,
            "info": {key: np.array(window, np.float64) for key, window in self._info.items()},
            "known_info": sorted(self.known_info),
            "warnings": list(self.warnings),
            "sizes": {name: file.size for name, file in self._files().items()},
        }

    def load_state(self, state: State) -> None:
        """Loads a state. The caller then calls cut_back(). Raises StateError."""
        sizes = take_state(state, "sizes")
        self._sizes = {name: take_count(sizes, name) for name in self._files()}
        windows = {"returns": self._returns, "lengths": self._lengths}
        for name, window in windows.items():
            window.extend(_window(state, name).tolist())
        info = take_state({"info": {}} | state, "info")  # older runs have neither
        known = {"known_info": [key for key in info if len(_window(info, key))]} | state
        self.known_info |= {str(key) for key in take_list(known, "known_info")}
        for key, window in self._info.items():
            window.extend(_window(info, key).tolist() if key in info else ())
        last = take_state(state, "last")
        self._last = {name: take_seconds(last, name) for name in last}
        self._last_steps = take_count(state, "last_steps")
        self._last_updates = take_count(state, "last_updates")
        self.warnings += [str(line) for line in take_list(state, "warnings")]
        if take(state, "eval_return") is not None:
            self._eval_return = take_number(state, "eval_return")

    def cut_back(self, steps: int) -> list[str]:
        """Truncates the files to their sizes in the loaded state, which is at steps.

        Returns:
            A line for each file that is shorter than that, so that rows are missing.
        """
        lines = []
        for name, file in self._files().items():
            size, there = self._sizes[name], file.size
            if there < size:
                size = _whole_lines(self.place / name)
                lines.append(
                    f"the end of {name} was not restored: it has {there:,} bytes, and had "
                    f"{self._sizes[name]:,} at the checkpoint"
                )
            file.truncate(size)
        for sink in self._sinks:
            sink.go_back(steps)
        return lines

    @property
    def files(self) -> list[Where]:
        """Append-only files."""
        return [self.place / name for name in self._files()]

    def _files(self) -> dict[str, AppendFile]:
        return {
            "metrics.jsonl": self._metrics.file,
            "eval.jsonl": self._evals.file,
            "episodes.csv": self._episodes,
        }

    def say(self, line: str) -> None:
        """Prints a line."""
        self._display.say(line)

    def warn(self, line: str) -> None:
        """Prints a warning and stores it for the summary."""
        self.warnings.append(line)
        self._display.say(f"warning: {line}")

    def failure(self, trace: str) -> None:
        """Writes the traceback of the error that ended the run."""
        write_whole(self.place / "traceback.txt", trace)

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json. Raises WriteError."""
        write_whole(self.place / "summary.json", to_json(summary, indent=2) + "\n")

    def close(self) -> None:
        """Flushes and closes all files, then raises WriteError if one failed. Idempotent."""
        with contextlib.ExitStack() as closed:
            for file in (self._evals, *self._sinks, self._episodes):
                closed.callback(file.close)
            closed.callback(self._display.close)

    def _write_row(self, steps: int, row: dict[str, float]) -> None:
        for sink in self._sinks:
            with self.disk.around(sink.name):
                sink.write(steps, row)

    def _flush_episodes(self) -> None:
        with self.disk.around("episodes.csv"):
            self._episodes.flush()


def _window(state: State, name: str) -> np.ndarray:
    """Returns the recent values of a state dict. Raises StateError."""
    values = take(state, name)
    if not isinstance(values, np.ndarray) or values.ndim != 1 or len(values) > _WINDOW:
        raise StateError(f"{name} is {values!r:.80}, not an array of at most {_WINDOW} numbers")
    return values


def _return(total: float) -> str:
    """Returns a sum of float32 rewards without the digits that float32 does not have."""
    if total.is_integer():
        return f"{total:.9g}"
    return np.format_float_positional(np.float32(total), trim="-")  # the shortest that is equal


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


def _whole_lines(path: Where) -> int:
    """Returns the size of a text file up to the end of its last complete line."""
    fd, info = open_file(path, os.O_RDONLY)
    try:
        end = info.st_size
        while end > 0:
            start = max(0, end - _CHUNK)
            if (at := os.pread(fd, end - start, start).rfind(b"\n")) >= 0:
                return start + at + 1
            end = start
    finally:
        os.close(fd)
    return 0
