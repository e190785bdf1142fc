"""Groups runs by setting: runs of one group differ only in their seed."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastdqn.report.run_data import RunRecord, number
from fastdqn.text import drawable

# Options in which runs of one group may differ: they do not affect learning.
FREE = (
    "seed", "run_dir", "checkpoint_frequency", "checkpoint_seconds", "checkpoint_replay",
    "log_frequency", "tensorboard", "wandb", "on_disk_error", "max_step_seconds",
    "workers", "restart_envs", "snapshot_frequency",
)  # fmt: skip
LONGEST_LABEL = 60  # maximum characters of a label


class Group(NamedTuple):
    """Runs of one setting, and a label that distinguishes it."""

    label: str
    runs: list[RunRecord]


class StudyVariant(NamedTuple):
    """The variant of a study that a run belongs to."""

    study: str
    label: str


def group(records: list[RunRecord], variants: Sequence[StudyVariant | None] = ()) -> list[Group]:
    """Groups runs by setting, in the order given. Labels are unique.

    variants: variant of each run, or None. Each variant is a group. Its label is used if every
    group has one and they differ, as within one study.
    """
    variants = variants or [None] * len(records)
    by_setting: dict[StudyVariant | str, list[RunRecord]] = {}
    for record, variant in zip(records, variants, strict=True):
        setting = variant or json.dumps(_setting(record), sort_keys=True)
        by_setting.setdefault(setting, []).append(record)
    groups = list(by_setting.values())
    own = [key.label for key in by_setting if isinstance(key, StudyVariant)]
    if len(own) == len(groups) == len(set(own)):
        return _labeled(own, groups)
    names = [name for name in differences([runs[0] for runs in groups]) if name != "preset"]
    presets = [str(runs[0].config.get("preset")) for runs in groups]
    texts = []
    for runs, preset in zip(groups, presets, strict=True):
        text = ", ".join(_option_text(name, runs[0].config.get(name)) for name in names)
        texts.append(preset if len(set(presets)) == len(groups) or not text else text)
    return _labeled(texts, groups)


def _labeled(texts: Sequence[str], groups: list[list[RunRecord]]) -> list[Group]:
    labels: list[str] = []
    for text in texts:
        label = shortened(text, LONGEST_LABEL)
        labels.append(f"{label} ({len(labels) + 1})" if label in labels else label)
    return [Group(*pair) for pair in zip(labels, groups, strict=True)]


def differences(records: list[RunRecord]) -> list[str]:
    """Returns the options in which runs differ, except the seed and similar ones."""
    names = dict.fromkeys(name for record in records for name in _setting(record))
    return [
        name for name in names
        if len({json.dumps(_setting(r).get(name), sort_keys=True) for r in records}) > 1
    ]  # fmt: skip


def goal_of(groups: list[Group]) -> float | None:
    """Returns the stop_at_return of the runs if it is the same for all, else None."""
    goals = {number(run.config.get("stop_at_return")) for group in groups for run in group.runs}
    goal = goals.pop()
    return None if goals or not math.isfinite(goal) else goal


def _option_text(name: str, value: Any) -> str:
    """Formats an option and its value, such as 'no double' and 'n_steps 3'."""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {spelled(value)}"


def shortened(text: str, longest: int) -> str:
    """Returns drawable(text), with the middle left out if it exceeds longest characters."""
    text = drawable(text)
    if len(text) <= longest:
        return text
    head = (longest - 3) * 2 // 3
    return f"{text[:head]}...{text[head + 3 - longest :]}"


def spelled(value: Any) -> str:
    """Formats a JSON value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return " ".join(map(spelled, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={spelled(item)}" for key, item in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _setting(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.config.items() if name not in FREE}
