"""Groups: runs that differ by their seed alone, told apart by what else differs."""

import json
import math
from typing import Any, NamedTuple

from fastdqn.report.run_data import RunRecord, number
from fastdqn.text import drawable

# What runs of one group may differ in: nothing of it is learned from.
_FREE = (
    "seed", "run_dir", "checkpoint_frequency", "checkpoint_seconds", "checkpoint_replay",
    "log_frequency", "tensorboard", "wandb", "on_disk_error", "max_step_seconds",
)  # fmt: skip
_LONGEST = 60  # letters of a label; ours


class Group(NamedTuple):
    """Runs of one setting, and what tells them from the others."""

    label: str
    runs: list[RunRecord]


def group(records: list[RunRecord]) -> list[Group]:
    """Runs by setting, in the order in which they were given; labels are unique."""
    by_setting: dict[str, list[RunRecord]] = {}
    for record in records:
        by_setting.setdefault(json.dumps(_setting(record), sort_keys=True), []).append(record)
    groups = list(by_setting.values())
    names = [name for name in differences([runs[0] for runs in groups]) if name != "preset"]
    presets = [str(runs[0].config.get("preset")) for runs in groups]
    labels: list[str] = []
    for runs, preset in zip(groups, presets, strict=True):
        told = ", ".join(_told(name, runs[0].config.get(name)) for name in names)
        label = preset if len(set(presets)) == len(groups) or not told else told
        label = shortened(label, _LONGEST)
        labels.append(f"{label} ({len(labels) + 1})" if label in labels else label)
    return [Group(*pair) for pair in zip(labels, groups, strict=True)]


def differences(records: list[RunRecord]) -> list[str]:
    """Names of the options in which runs differ, seeds aside."""
    names = dict.fromkeys(name for record in records for name in _setting(record))
    return [
        name for name in names
        if len({json.dumps(_setting(r).get(name), sort_keys=True) for r in records}) > 1
    ]  # fmt: skip


def goal_of(groups: list[Group]) -> float | None:
    """The return at which all of the runs would have stopped, if they have one in common."""
    goals = {number(run.config.get("stop_at_return")) for group in groups for run in group.runs}
    goal = goals.pop()
    return None if goals or not math.isfinite(goal) else goal


def _told(name: str, value: Any) -> str:
    """An option and its value: 'no double', 'n_steps 3'."""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {spelled(value)}"


def shortened(text: str, longest: int) -> str:
    """As drawable(), with the middle left out where it has more than so many letters."""
    text = drawable(text)
    if len(text) <= longest:
        return text
    head = (longest - 3) * 2 // 3
    return f"{text[:head]}...{text[head + 3 - longest :]}"


def spelled(value: Any) -> str:
    """A value of JSON as people write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return " ".join(map(spelled, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={spelled(item)}" for key, item in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _setting(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.config.items() if name not in _FREE}
