"""Step: what one delivery of environments holds, and how it is found in what they give."""

from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """One delivery: M transitions, then S episode starts, and the E episodes that ended in it.

    lanes [M] int64 · action [M] int64, from 0 · reward [M] float64, as given
    terminated, truncated [M] bool · next_obs [M, *] the true last observation at an end
    start_lanes [S] int64 · start_obs [S, *]; a start where an episode is open closes that first
    ended_lanes [E] int64 · returns [E] float64, undiscounted · lengths [E] int64, steps: of whole
    games, where a lost life is terminated too, told with the reset that follows
    next_mask [M, A], start_mask [S, A] bool: the actions allowed at next_obs and start_obs,
    all of them where an episode ended without saying; None where there are no masks
    The arrays belong to the stream and are overwritten by the next delivery.
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


def lane_of(final_obs: Any, position: int) -> Any:
    """One lane's last observation: out of an array, or out of a dict of arrays."""
    if isinstance(final_obs, dict):
        return {
            key: lane_of(value, position)
            for key, value in final_obs.items()
            if not (isinstance(key, str) and key.startswith("_") and key[1:] in final_obs)
        }
    return final_obs[position]
