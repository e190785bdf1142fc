"""Runs of a study that differ from it: options or total steps were changed by `fastdqn resume`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastdqn.checkpoints.checked_read import read_latest, read_manifest
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import read_text
from fastdqn.files.run_folder import read_config
from fastdqn.report.seed_groups import FREE, spelled
from fastdqn.study.study_folder import Run, is_study, read_study


def changed_runs(runs: Iterable[Run], asked: Mapping[str, Config] | None = None) -> dict[str, str]:
    """Returns what differs in each run that is not as its study wants it, by its name.

    Args:
        runs: Runs of a study, which need not exist.
        asked: Options of the study's variants as they are given, by the name of the variant. None:
            only changes after the start of a run are found.
    """
    found = {run.name: _changes(run, (asked or {}).get(run.variant.name)) for run in runs}
    return {name: text for name, text in found.items() if text}


def left_out(changed: Mapping[str, str]) -> list[str]:
    """Returns a line for each run that is left out."""
    return [
        f"{name} differs from the study: {text}. It is left out: remove its folder to train it "
        "again"
        for name, text in changed.items()
    ]


def recorded_left_out(study: Path) -> dict[str, str]:
    """Returns what the results of a study say of the runs that they leave out."""
    try:
        return dict(json.loads(read_text(study / "results.json"))["left_out"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # there are none yet
        return {}


def resume_warning(folder: Path, changes: Mapping[str, Any], total: int | None) -> str | None:
    """Returns a warning if a run of a study is about to be resumed differently, or None.

    Args:
        folder: Run folder.
        changes: Options that change.
        total: New total of steps, or None.
    """
    root = folder.resolve().parent.parent
    try:
        if not is_study(root):
            return None
        names = [run.name for run in read_study(root).runs(root) if run.folder == folder.resolve()]
        config = read_config(folder)
    except (ConfigError, OSError):  # reported when the run is read
        return None
    given = {**changes} | ({} if total is None else {"total_timesteps": total})
    differ = [n for n, value in given.items() if n not in FREE and value != getattr(config, n)]
    if not names or not differ:
        return None
    return (
        f"warning: {names[0]} is a run of the study in {root}, which leaves it out from now on: "
        f"{', '.join(differ)} will differ"
    )


def _changes(run: Run, asked: Config | None) -> str:
    """Returns the options of a run that differ, with all of their values in order."""
    values = {} if asked is None else _requested(run.folder, asked)
    for row in _rows(run.folder / "changes.jsonl"):
        for name, change in row.items():
            values.setdefault(name, [change.get("from")]).append(change.get("to"))
    values |= _total(run.folder)
    return ", ".join(
        f"{name} {' -> '.join(map(spelled, each))}"
        for name, each in values.items()
        if name not in FREE
    )


def _requested(folder: Path, asked: Config) -> dict[str, list[Any]]:
    """Returns the options with which a run was started in another way than asked."""
    try:
        ours, theirs = (
            json.loads(each.to_json()) for each in (asked, read_config(folder, "requested.json"))
        )
    except ConfigError:  # there is no run yet, or it is of an older version
        return {}
    return {
        name: [ours[name], theirs[name]]
        for name in ours
        if ours[name] != theirs[name] and name != "preset"  # a label
    }


def _rows(path: Path) -> list[dict[str, dict[str, Any]]]:
    """Returns the changes in changes.jsonl, a dict by option for each resume."""
    if not path.exists():
        return []
    try:
        rows = [json.loads(line)["changed"] for line in read_text(path).splitlines()]
        return [{name: dict(change) for name, change in row.items()} for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [{path.name: {"from": "a list of changes", "to": "an unreadable file"}}]


def _total(folder: Path) -> dict[str, list[Any]]:
    """Returns the total of steps in config.json and in the last checkpoint if they differ."""
    try:
        before = read_config(folder).total_timesteps
        now = read_manifest(folder, read_latest(folder)).config.get("total_timesteps")
    except (ConfigError, CheckpointError, OSError):
        return {}
    return {} if now == before else {"total_timesteps": [before, now]}
