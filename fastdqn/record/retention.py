"""What is kept of earlier checkpoints and segments, and what is swept away."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastdqn.plain import Rows
from fastdqn.record.durable import remove
from fastdqn.record.layout import SEGMENT, STEP, TEMPORARY
from fastdqn.record.manifest import Segment


def still_needed(segments: list[Segment], rows: Rows, oldest: np.ndarray) -> list[Segment]:
    """Those segments that hold a row of use which rows does not replace.

    oldest  [N] int64: rows below it are overwritten in the replay
    """
    if (rows.first <= oldest).all():  # rows are all there is
        return []
    return [each for each in segments if (each.last > np.maximum(each.first, oldest)).any()]


def sweep(root: Path, kept: Mapping[str, frozenset[str]]) -> None:
    """Delete what no checkpoint of kept needs, and whatever a crash left unfinished.

    root  RUN/checkpoints
    kept  checkpoint name -> names of its segments
    Names that are not ours stay. Raises OSError naming the path.
    """
    listed = frozenset().union(*kept.values())
    # Checkpoints first: one that lacks a segment must not be found.
    for folder, pattern, needed in ((root, STEP, kept), (root / "segments", SEGMENT, listed)):
        for name in sorted(os.listdir(folder)):  # temporaries first: a dot sorts before the rest
            if name.startswith(TEMPORARY) or (pattern.fullmatch(name) and name not in needed):
                remove(folder / name)
