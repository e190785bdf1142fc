"""RunRecorder: turns what the loop reports into files and a display."""

import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastdqn.plain import (
    State,
    StateError,
    take,
    take_count,
    take_list,
    take_number,
    take_seconds,
    take_state,
)
from fastdqn.record.console import Display
from fastdqn.record.files import open_append, to_json, write_whole, writing
from fastdqn.record.metrics import JsonLines, MetricsSink
from fastdqn.record.remaining import Remaining

# What "recent" means for episodes: Stable-Baselines3's window.
_WINDOW = 100
# Phases that steps_per_second leaves out: how often they come is the user's choice.
_ASIDE = ("evaluate", "save")


class RunRecorder:
    """Writes metrics.jsonl, episodes.csv, eval.jsonl, the weights and summary.json into folder.

    sinks   further takers of metric rows
    save    writes the weights as they are now to a path
    spent   share of the budget, in [0, 1], from (steps, episodes)
    on_evaluation  a call of the user's own: (steps, kind, evaluation)
    frames_a_step  emulator frames of a step, where there are such
    """

    def __init__(
        self,
        folder: Path,
        display: Display,
        sinks: list[MetricsSink],
        save: Callable[[Path], None],
        spent: Callable[[int, int], float],
        on_evaluation: Callable[[int, str, Any], Any] | None = None,
        frames_a_step: int | None = None,
    ):
        self.folder, self._display, self._save, self._spent = folder, display, save, spent
        self._on_evaluation, self._frames_a_step = on_evaluation, frames_a_step
        with contextlib.ExitStack() as opened:  # closed here if a later one fails
            for each in (display, *sinks):
                opened.callback(each.close)
            self._metrics = JsonLines(folder / "metrics.jsonl")
            opened.callback(self._metrics.close)
            self._evals = JsonLines(folder / "eval.jsonl")
            opened.callback(self._evals.close)
            self._episodes = open_append(folder / "episodes.csv")
            opened.pop_all()
        self._sinks = [self._metrics, *sinks]
        if self._episodes.tell() == 0:
            self._episodes.write("episode,steps,lane,return,length\n")
        self._returns: deque[float] = deque(maxlen=_WINDOW)
        self._lengths: deque[int] = deque(maxlen=_WINDOW)
        self._last: dict[str, float] = {}  # phase totals at the last report
        self._shown: dict[str, float] = {}  # the newest value of each metric
        self._last_steps = self._last_updates = 0
        self._remaining = Remaining()
        self._eval_return: float | None = None
        self.warnings: list[str] = []
        self._sizes: dict[str, int] = {}  # of the files, in the state that was loaded

    def episodes(self, progress, step) -> None:
        """Note the episodes that ended in step; progress counts them already. Raises WriteError."""
        first = progress.episodes - len(step.ended_lanes) + 1
        returns, lengths = step.returns.tolist(), step.lengths.tolist()
        ended = zip(step.ended_lanes.tolist(), returns, lengths, strict=True)
        lines = [
            f"{first + i},{progress.steps},{lane},{total:.9g},{length}\n"
            for i, (lane, total, length) in enumerate(ended)
        ]
        with writing(self.folder / "episodes.csv"):
            self._episodes.write("".join(lines))
        self._returns.extend(returns)
        self._lengths.extend(lengths)

    def report(
        self, progress, epsilon: float, report, totals: dict[str, float], final: bool = False
    ) -> None:
        """Write a row of metrics; rates are of the time since the row before.

        A rate of nothing done since then is left out, and the display keeps the one it has.
        """
        since = {name: total - self._last.get(name, 0.0) for name, total in totals.items()}
        steps, updates = progress.steps - self._last_steps, progress.updates - self._last_updates
        self._last, self._last_steps, self._last_updates = (
            dict(totals), progress.steps, progress.updates,
        )  # fmt: skip
        row = self._row(progress, epsilon, report, since, steps, updates, sum(totals.values()))
        for sink in self._sinks:
            sink.write(progress.steps, row)
        self._flush_episodes()
        self._shown |= row
        self._display.show(self._status(progress, self._shown, totals), final)

    def evaluation(self, steps: int, kind: str, evaluation) -> None:
        """Note a greedy evaluation: 'eval', 'confirm' or 'final'."""
        summary = evaluation.summary()
        self._eval_return = summary["mean_return"]
        self._evals.write(steps, {"kind": kind, **summary})
        row = {
            "eval/mean_reward": summary["mean_return"],
            "eval/mean_ep_length": summary["mean_length"],
        }
        if evaluation.predicted is not None:
            row["eval/predicted_return"] = summary["mean_predicted"]
            row["eval/discounted_return"] = summary["mean_discounted"]
        if kind != "final":
            self._display.say(
                f"step {steps:>9,}  evaluation: return {summary['mean_return']:.1f} over "
                f"{summary['episodes']} greedy episodes"
                + (" to confirm" if kind == "confirm" else "")
                + (f", {summary['cut_episodes']} cut" if summary["cut_episodes"] else "")
            )
        if kind == "eval":
            for sink in self._sinks:
                sink.write(steps, row)
        if self._on_evaluation is not None:
            self._on_evaluation(steps, kind, evaluation)

    def save_best(self) -> None:
        self._save(self.folder / "best.safetensors")

    def save_last(self) -> None:
        self._save(self.folder / "policy.safetensors")

    def state(self) -> State:
        """Windows, totals and the sizes of the files: see cut_back()."""
        self._flush_episodes()
        return {
            "returns": np.array(self._returns, np.float64),
            "lengths": np.array(self._lengths, np.int64),
            "last": dict(self._last),
            "last_steps": self._last_steps,
            "last_updates": self._last_updates,
            "eval_return": self._eval_return,
            "warnings": list(self.warnings),
            "sizes": {name: file.tell() for name, file in self._files().items()},
        }

    def load_state(self, state: State) -> None:
        """Go on from a state; cut_back() is the caller's to call then. Raises StateError."""
        sizes = take_state(state, "sizes")
        self._sizes = {name: take_count(sizes, name) for name in self._files()}
        windows = {"returns": self._returns, "lengths": self._lengths}
        for name, window in windows.items():
            values = take(state, name)
            if not isinstance(values, np.ndarray) or values.ndim != 1 or len(values) > _WINDOW:
                raise StateError(f"{name} is {values!r:.80}: at most {_WINDOW} numbers expected")
            window.extend(values.tolist())
        last = take_state(state, "last")
        self._last = {name: take_seconds(last, name) for name in last}
        self._last_steps = take_count(state, "last_steps")
        self._last_updates = take_count(state, "last_updates")
        self.warnings += [str(line) for line in take_list(state, "warnings")]
        if take(state, "eval_return") is not None:
            self._eval_return = take_number(state, "eval_return")

    def cut_back(self, steps: int) -> list[str]:
        """Cut off what the files hold behind the state that was loaded, at so many steps.

        returns  lines that say which are shorter than that, and so lack rows
        """
        lines = []
        for name, file in self._files().items():
            size, there = self._sizes[name], file.tell()
            if there < size:
                size = _whole_lines(self.folder / name)
                lines.append(
                    f"the end of {name} was not restored: {there:,} bytes are left of "
                    f"{self._sizes[name]:,} at the checkpoint"
                )
            file.truncate(size)
            file.seek(size)
        for sink in self._sinks:
            sink.go_back(steps)
        return lines

    @property
    def files(self) -> list[Path]:
        """Those that grow while a run lasts."""
        return [self.folder / name for name in self._files()]

    def _files(self) -> dict[str, Any]:
        return {
            "metrics.jsonl": self._metrics.file,
            "eval.jsonl": self._evals.file,
            "episodes.csv": self._episodes,
        }

    def say(self, line: str) -> None:
        self._display.say(line)

    def warn(self, line: str) -> None:
        """Say a line, and keep it for the summary."""
        self.warnings.append(line)
        self._display.say(f"warning: {line}")

    def failure(self, trace: str) -> None:
        """Keep the traceback of what ended the run."""
        write_whole(self.folder / "traceback.txt", trace)

    def summary(self, summary: dict[str, Any]) -> None:
        write_whole(self.folder / "summary.json", to_json(summary, indent=2) + "\n")

    def close(self) -> None:
        """Flush and close everything, and only then raise WriteError; safe to call twice."""
        with contextlib.ExitStack() as closed:
            for sink in (self._evals, *self._sinks):
                closed.callback(sink.close)
            closed.enter_context(writing(self.folder / "episodes.csv"))
            closed.callback(self._episodes.close)
            closed.callback(self._display.close)

    def _flush_episodes(self) -> None:
        with writing(self.folder / "episodes.csv"):
            self._episodes.flush()

    def _row(self, progress, epsilon, report, since, steps, updates, elapsed) -> dict[str, float]:
        row = {
            "rollout/exploration_rate": epsilon,
            "rollout/episodes": progress.episodes,
            "time/total_timesteps": progress.steps,
            "time/time_elapsed": elapsed,
            "charts/SPS": _rate(progress.steps, elapsed),
            "train/n_updates": progress.updates,
        }
        if self._frames_a_step is not None:
            row["time/total_frames"] = progress.steps * self._frames_a_step
        if steps:
            row["time/fps"] = _rate(steps, sum(since.values()))
            row["time/env_steps_per_second"] = _rate(steps, since.get("env", 0.0))
        if updates:
            row["time/learner_updates_per_second"] = _rate(updates, since.get("learn", 0.0))
        if self._returns:
            mean = float(np.mean(self._returns))
            row["rollout/ep_rew_mean"] = row["charts/episodic_return"] = mean
            row["rollout/ep_len_mean"] = row["charts/episodic_length"] = float(
                np.mean(self._lengths)
            )
        if report.updates:
            row["train/loss"] = row["losses/td_loss"] = report.loss
            row["losses/q_values"] = report.q_value
        total = sum(since.values())
        for name, seconds in since.items():
            row[f"time/share/{name}"] = seconds / total if total else 0.0
        return row

    def _status(self, progress, row, totals) -> dict[str, Any]:
        fraction, elapsed = self._spent(progress.steps, progress.episodes), sum(totals.values())
        return {
            "steps": progress.steps,
            "episodes": progress.episodes,
            "updates": progress.updates,
            "return": row.get("rollout/ep_rew_mean"),
            "eval_return": self._eval_return,
            "loss": row.get("train/loss"),
            "epsilon": row["rollout/exploration_rate"],
            "fps": row.get("time/fps", 0.0),
            "env_rate": row.get("time/env_steps_per_second", 0.0),
            "learner_rate": row.get("time/learner_updates_per_second", 0.0),
            "fraction": fraction,
            "seconds_left": self._remaining(elapsed, fraction),
            "shares": {
                key.rpartition("/")[2]: value
                for key, value in row.items()
                if key.startswith("time/share/")
            },
        }


def _whole_lines(path: Path) -> int:
    """Bytes of a text file up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def steps_per_second(steps: int, phase_seconds: dict[str, float]) -> float:
    """Steps by the loop's own time: evaluation, saving and reporting left out."""
    spent = sum(seconds for name, seconds in phase_seconds.items() if name not in _ASIDE)
    return _rate(steps, spent)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
