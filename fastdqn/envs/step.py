"""Step: the transitions, episode starts and episode ends of one step."""

from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """One step: M transitions, then S episode starts, and E episodes that ended in it.

    The arrays belong to the stream, and the next step overwrites them.

    Attributes:
        lanes: int64[M], the sub-environment of each transition.
        action: int64[M], counted from 0.
        reward: float64[M], as the environment returned it.
        terminated: bool[M].
        truncated: bool[M].
        next_obs: [M, *]; at an episode end the last observation, not the first of the next.
        start_lanes: int64[S]. A start in the middle of an episode closes that episode.
        start_obs: [S, *].
        ended_lanes: int64[E]. Counts whole games: a lost life is terminated, but ends no episode
            here. With NEXT_STEP such an end is reported at the reset that follows.
        returns: float64[E], undiscounted.
        lengths: int64[E], steps.
        next_mask: bool[M, A], actions allowed at next_obs; all if an episode ended without a mask.
            None without masks.
        start_mask: bool[S, A], actions allowed at start_obs; None without masks.
        info: float64[E] for each key of the stream's info_keys: its value at the episode ends, NaN
            where it is missing. None without keys.
    """

    lanes: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    start_lanes: np.ndarray
    start_obs: np.ndarray
    ended_lanes: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    next_mask: np.ndarray | None = None
    start_mask: np.ndarray | None = None
    info: dict[str, np.ndarray] | None = None


def lane_of(final_obs: Any, position: int) -> Any:
    """Returns one row of batched last observations: arrays, however nested."""
    if isinstance(final_obs, dict):
        return {
            key: lane_of(value, position)
            for key, value in final_obs.items()
            if not (isinstance(key, str) and key.startswith("_") and key[1:] in final_obs)
        }
    if isinstance(final_obs, tuple):
        return tuple(lane_of(part, position) for part in final_obs)
    return final_obs[position]
