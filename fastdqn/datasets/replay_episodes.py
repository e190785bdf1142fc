"""episodes_of(): the transitions that a replay buffer holds, as episodes."""

import numpy as np

from fastdqn.datasets.episodes import Episodes
from fastdqn.replay import Replay
from fastdqn.replay.ring import ENDED, LIVE, TERMINATED, TRUNCATED


def episodes_of(replay: Replay) -> Episodes:
    """Returns the stored episodes, lane by lane, oldest first. The replay must not change.

    An episode whose beginning was overwritten starts at its first row that can be read. One that
    still runs is cut at its last observation.
    """
    ring = replay.ring
    slots, lengths = [], []
    for lane in range(ring.num_lanes):
        for first, last in _runs(replay, lane):
            slots.append(lane * ring.rows + np.arange(first, last + 1) % ring.rows)
            lengths.append(last - first)
    rows = np.concatenate(slots) if slots else np.empty(0, np.int64)
    lengths = np.array(lengths, np.int64)
    is_last = np.zeros(len(rows), np.bool_)
    is_last[np.cumsum(lengths + 1) - 1] = True
    outcome = rows[~is_last]
    status = ring.status.reshape(-1)[outcome]
    masks = replay.masks
    return Episodes(
        lengths,
        ring.action.reshape(-1)[outcome].astype(np.int64),
        ring.reward.reshape(-1)[outcome].astype(np.float64),
        (status & TERMINATED) > 0,
        (status & TRUNCATED) > 0,
        lambda wanted: _gather(replay.store, rows[wanted]),
        None if masks is None else lambda wanted: _gather(masks, rows[wanted]),
    )


def _runs(replay: Replay, lane: int) -> list[tuple[int, int]]:
    """Returns the (first, last) rows of each stored episode; last is its final observation."""
    ring = replay.ring
    added = int(ring.added[lane])
    # Rows whose stack of frames reaches beyond the oldest row cannot be read.
    oldest = max(0, added - ring.rows) + ring.stack - 1
    rows = np.arange(oldest, added)
    status = ring.status[lane, rows % ring.rows]
    live = (status & LIVE) > 0
    ended = live & ((status & ENDED) > 0)
    begins = live & ~np.concatenate(([False], live[:-1] & ~ended[:-1]))
    ends = live & (ended | ~np.concatenate((live[1:], [False])))
    firsts, lasts = rows[begins], rows[ends] + 1
    return [(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True) if b < added]


def _gather(store, slots: np.ndarray) -> np.ndarray:
    out = np.empty((len(slots), *store.obs_shape), store.obs_dtype)
    store.gather(slots, out)
    return out
