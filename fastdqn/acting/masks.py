"""MaskReader: which actions an environment allows, out of info["action_mask"]."""

from typing import Any

import numpy as np

from fastdqn.acting.failures import EnvError


class MaskReader:
    """mask [R, A] bool: the actions allowed now in each lane that answered; a lane that says
    nothing allows all."""

    def __init__(self, num_ready: int, num_actions: int):
        self.mask = np.ones((num_ready, num_actions), np.bool_)

    def read(self, info: dict[str, Any], lanes: np.ndarray, over: np.ndarray) -> None:
        """Take the masks of an arrival from lanes [R], of which over [R] bool need not act.

        Raises EnvError where a shape is wrong, or a lane that must act allows nothing.
        """
        _read(info, self.mask, np.arange(len(self.mask)))
        self._require_some(lanes, over)

    def read_some(self, info: dict[str, Any], lanes: np.ndarray, positions: np.ndarray) -> None:
        """Take the masks of lanes that were restarted, and leave the others'; raises as read()."""
        _read(info, self.mask, positions)
        self._require_some(lanes, np.zeros(len(lanes), np.bool_))

    def before_restart(
        self, ended: np.ndarray, info: dict[str, Any], restarted: bool
    ) -> np.ndarray:
        """The masks [R, A] at the last observations of the positions ended, which DISABLED has
        just given and SAME_STEP puts into final_info; where it does not, all is allowed."""
        last = self.mask.copy()
        if restarted:
            final_info = info.get("final_info")
            _read(final_info if isinstance(final_info, dict) else {}, last, ended)
            _free(last)
        return last

    def _require_some(self, lanes: np.ndarray, over: np.ndarray) -> None:
        nothing = ~self.mask.any(1)
        if nothing.any():
            stuck = np.flatnonzero(nothing & ~over)
            if len(stuck):
                raise EnvError(f"lane {lanes[stuck[0]]}: info['action_mask'] allows no action")
            _free(self.mask)


def _free(mask: np.ndarray) -> None:
    """Where an episode is over no action is left to take: all count as allowed."""
    mask[~mask.any(1)] = True


def _read(info: dict[str, Any], out: np.ndarray, positions: np.ndarray) -> None:
    """Write info's masks at positions of out [R, A]; where there is none, all is allowed."""
    out[positions] = True
    given = info.get("action_mask")
    if given is None:
        return
    if "_action_mask" in info:  # says which lanes gave one
        positions = positions[np.asarray(info["_action_mask"], np.bool_)[positions]]
    if len(positions):
        masks = np.asarray(given)
        if masks.ndim < 1 or len(masks) <= positions[-1]:
            raise EnvError("info['action_mask'] holds no mask for each lane")
        if masks.dtype != object:
            masks = masks[positions]
        else:  # Gymnasium's way where lanes give lists, 1 us for each lane
            masks = np.array([_fitting(masks[at], out.shape[1], at) for at in positions])
        if masks.shape[1:] != out.shape[1:]:
            raise EnvError(
                f"info['action_mask'] has shape {masks.shape[1:]}: one entry for each of "
                f"{out.shape[1]} actions expected"
            )
        out[positions] = masks != 0


def _fitting(mask: Any, num_actions: int, position: int) -> np.ndarray:
    array = np.asarray(mask)
    if array.shape != (num_actions,):
        raise EnvError(
            f"info['action_mask'] of answer {position} has shape {array.shape}: one entry for "
            f"each of {num_actions} actions expected"
        )
    return array
