"""play(): delivers recorded episodes as steps, as an environment stream delivers its own."""

from collections.abc import Iterator

import numpy as np

from fastdqn.datasets.episodes import Episodes
from fastdqn.envs import Step


def play(episodes: Episodes, num_lanes: int, most_steps: int) -> Iterator[Step]:
    """Yields steps of num_lanes sub-environments that together play all episodes once.

    A lane takes the next episode when its own ends, so all get about equally many transitions.

    Args:
        episodes: What to play.
        num_lanes: N.
        most_steps: Transitions after which a longer episode is cut, and continued in the lane that
            is free next: a lane of the replay must not overwrite an episode by its own end.
    """
    first, first_obs, length = _pieces(episodes, most_steps)
    lanes = np.arange(min(num_lanes, len(first)))
    at, row, left = first[lanes], first_obs[lanes], length[lanes]
    returns, lengths = np.zeros(num_lanes), np.zeros(num_lanes, np.int64)
    waiting = len(lanes)  # the next piece that no lane plays
    yield _step(episodes, lanes[:0], at[:0], row[:0], lanes, row, returns, lengths)
    while len(lanes):
        over = left == 1
        taken = np.arange(waiting, min(waiting + int(over.sum()), len(first)))
        waiting += len(taken)
        starts = np.flatnonzero(over)[: len(taken)]
        returns[lanes] += episodes.reward[at]
        lengths[lanes] += 1
        yield _step(episodes, lanes, at, row, lanes[starts], first_obs[taken], returns, lengths)
        returns[lanes[over]], lengths[lanes[over]] = 0.0, 0
        at, row, left = at + 1, row + 1, left - 1
        at[starts], row[starts], left[starts] = first[taken], first_obs[taken], length[taken]
        kept = left > 0
        lanes, at, row, left = lanes[kept], at[kept], row[kept], left[kept]


def _pieces(episodes: Episodes, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns first transition, row of the first observation, and length of each piece [P]."""
    counts = -(-episodes.lengths // most)
    whose = np.repeat(np.arange(len(counts)), counts)
    offset = (np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)) * most
    begins = np.cumsum(episodes.lengths) - episodes.lengths
    first = begins[whose] + offset
    return first, first + whose, np.minimum(most, episodes.lengths[whose] - offset)


def _step(
    episodes: Episodes,
    lanes: np.ndarray,
    at: np.ndarray,
    row: np.ndarray,
    start_lanes: np.ndarray,
    start_row: np.ndarray,
    returns: np.ndarray,
    lengths: np.ndarray,
) -> Step:
    terminated, truncated = episodes.terminated[at], episodes.truncated[at]
    ended = lanes[terminated | truncated]
    masks = episodes.masks
    return Step(
        lanes, episodes.action[at], episodes.reward[at], terminated, truncated,
        episodes.observations(row + 1), start_lanes, episodes.observations(start_row),
        ended, returns[ended], lengths[ended],
        None if masks is None else masks(row + 1),
        None if masks is None else masks(start_row),
    )  # fmt: skip
