"""Result files of the study: reads and validates them."""

import json
import math
from pathlib import Path
from typing import Any

from fastdqn.files.atomic_write import read_text
from study_rows import CLASSIC, Job

# Larger numbers are invalid, so that sums do not overflow.
_LARGEST = 1e30


def read_result(path: Path, job: Job) -> dict[str, Any] | None:
    """Returns the result of a run. None if the file is missing, not JSON, or of another run.

    Raises:
        ValueError: The result has an invalid field. The message names it.
    """
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return None
    ours = job._asdict()
    if not isinstance(found, dict) or {name: found.get(name) for name in ours} != ours:
        return None
    wrong = [name for name, right in _rules(job).items() if not right(found.get(name, _MISSING))]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} is not valid: delete the file")
    return found


_MISSING = object()


def _rules(job: Job) -> dict[str, Any]:
    """Returns a check for each field."""
    rules = {
        "diverged": lambda value: value is None or isinstance(value, str),
        "last_return": _number_or_none,
        "cpu_seconds": lambda value: _number(value) and value >= 0,
        "curve": _curve,
    }
    if job.row == CLASSIC:
        rules |= {"episodes": _count, "highest_mean_of_100": _number_or_none}
        rules |= {f"episode_of_{goal}": lambda v: v is None or _count(v) for goal in (195, 475)}
    return rules


def _number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and abs(value) <= _LARGEST and not math.isnan(value)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and _number(value) and value >= 0


def _curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(_point, value))


def _point(value: Any) -> bool:
    if not isinstance(value, dict) or not _count(value.get("step")):
        return False
    both = [name for name in ("predicted", "realised") if name in value]
    return len(both) != 1 and all(_number(value.get(name)) for name in ["mean_return", *both])
