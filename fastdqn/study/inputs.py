"""Inputs: the files and runs that the runs of a study start from, and whether they changed."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastdqn.config.schema import Config

# Files of a run that another run starts from.
_OF_A_RUN = ("checkpoints/latest", "best.safetensors", "policy.safetensors")
# Time of change in nanoseconds and size in bytes of each file. None: it does not exist.
Stamp = tuple[tuple[int, int] | None, ...]


def stamps(configs: Iterable[Config], base: Path) -> dict[str, Stamp]:
    """Returns the stamp of each file and run that runs with these options start from.

    base: folder of relative paths.
    """
    found = {}
    for config in configs:
        for path in (*config.prefill, config.from_run, config.init_weights):
            if path is not None:  # a Minari data set has no file of this name, and no change
                names = _OF_A_RUN if os.path.isdir(base / path) else ("",)
                found[path] = tuple(_stamp(base / path / name) for name in names)
    return found


def changed_inputs(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> list[str]:
    """Returns a warning for each file or run that has another stamp now."""
    return [
        f"warning: {path} changed while the study was trained: its runs may have started from "
        "other data. Copy it, and train again from the copy"
        for path, stamp in before.items()
        if now.get(path) != stamp
    ]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
