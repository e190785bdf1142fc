"""MaskReader: which actions an environment allows, out of info["action_mask"]."""

from typing import Any

import numpy as np

from fastdqn.envs.errors import EnvError
from fastdqn.envs.infos import final_info, objects

# Answers without a mask after which an environment that gave masks at its reset is asked to give
# them at its steps too. Ours, untuned: an episode's end asks sooner.
_MOST_SILENT = 1_000


def as_mask(given: Any, num_actions: int | None) -> np.ndarray:
    """One mask of any kind as [A] bool.

    num_actions  A, None where it is not known
    Raises ValueError, one line, where its shape is another, or it holds other numbers than 0 and 1.
    """
    mask = np.asarray(given)
    if mask.ndim != 1 or num_actions not in (None, len(mask)):
        raise ValueError(
            f"info['action_mask'] has shape {mask.shape}: one entry for each of {num_actions} "
            "actions expected"
        )
    if mask.dtype == np.bool_:
        return mask
    if (line := _value_problem(mask)) is not None:
        raise ValueError(line)
    return mask != 0


class MaskReader:
    """mask [R, A] bool: the actions allowed now in each lane that answered; a lane without a mask
    allows all actions.

    same_step  whether a lane that ends has been reset in the same step: its mask is the reset's
    """

    def __init__(self, num_ready: int, num_actions: int, same_step: bool = False):
        self.mask = np.ones((num_ready, num_actions), np.bool_)
        self._same_step = same_step
        self._silent, self._steps_give = 0, False

    def read(
        self, info: dict[str, Any], lanes: np.ndarray, ended: np.ndarray, fresh: np.ndarray
    ) -> None:
        """Take the masks of an arrival from lanes [R].

        ended, fresh [R] bool  whose episode ended in this answer, who was reset by it
        Raises EnvError where a shape or a value is wrong, a lane that must act allows nothing, or
        steps give no mask although resets do.
        """
        if not self._steps_give:
            self._require_masks_of_steps(info, ended, fresh)
        over = ended & (not self._same_step)
        _read(info, self.mask, np.arange(len(self.mask)), ~over)
        self._require_some(lanes, over)

    def read_some(self, info: dict[str, Any], lanes: np.ndarray, positions: np.ndarray) -> None:
        """Take the masks of lanes that were restarted, and leave the others'; raises as read()."""
        everyone = np.ones(len(lanes), np.bool_)
        _read(info, self.mask, positions, everyone)
        self._require_some(lanes, ~everyone)

    def before_restart(
        self, ended: np.ndarray, info: dict[str, Any], restarted: bool
    ) -> np.ndarray:
        """The masks [R, A] at the last observations of the positions ended, which DISABLED has
        just given and SAME_STEP puts into final_info; where it does not, all is allowed."""
        last = self.mask.copy()
        if restarted:
            _read(final_info(info), last, ended, np.zeros(len(last), np.bool_))
            _free(last)
        return last

    def _require_masks_of_steps(
        self, info: dict[str, Any], ended: np.ndarray, fresh: np.ndarray
    ) -> None:
        """A mask at the reset alone would count as 'all is allowed' from the first step on."""
        stepped = ~fresh & ~(ended & self._same_step)  # whose mask is that of a step
        given = info.get("action_mask")
        gave = np.full(len(stepped), given is not None)
        if "_action_mask" in info:
            gave &= np.asarray(info["_action_mask"], np.bool_)[: len(gave)]
        elif isinstance(given, np.ndarray) and given.dtype == object:
            gave &= np.array([mask is not None for mask in given[: len(gave)]])
        if (gave & stepped).any():
            self._steps_give = True
            return
        self._silent += int((stepped & ~ended).sum())
        if self._silent >= _MOST_SILENT or (self._silent and ended.any()):
            raise EnvError(
                "info['action_mask'] is given by reset() and not by step(): give both, since the "
                "mask of one observation says nothing of the next"
            )

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


def _read(
    info: dict[str, Any], out: np.ndarray, positions: np.ndarray, must_act: np.ndarray
) -> None:
    """Write info's masks at positions of out [R, A]; where there is none, all is allowed.

    must_act [R] bool  whose masks have to be right: of the others a bad one counts as none
    """
    out[positions] = True
    given = info.get("action_mask")
    if given is None:
        return
    if "_action_mask" in info:  # says which lanes gave one
        positions = positions[np.asarray(info["_action_mask"], np.bool_)[positions]]
    if not len(positions):
        return
    masks = objects(given) if isinstance(given, list | tuple) else np.asarray(given)
    if masks.ndim < 1 or len(masks) <= positions[-1]:
        raise EnvError("info['action_mask'] holds no mask for each lane")
    if masks.dtype == object:  # where lanes give lists, 1 us for each lane
        _read_each(masks, out, positions, must_act)
        return
    masks = masks[positions]
    if masks.shape[1:] != out.shape[1:]:
        raise EnvError(
            f"info['action_mask'] has shape {masks.shape[1:]}: one entry for each of "
            f"{out.shape[1]} actions expected"
        )
    if masks.dtype != np.bool_:
        needed = must_act[positions]
        if (line := _value_problem(masks[needed])) is not None:
            raise EnvError(line)
        fine = needed | ((masks == 0) | (masks == 1)).all(1)
        positions, masks = positions[fine], masks[fine] != 0
    out[positions] = masks


def _read_each(
    masks: np.ndarray, out: np.ndarray, positions: np.ndarray, must_act: np.ndarray
) -> None:
    for at in positions.tolist():
        if masks[at] is None:
            continue
        try:
            out[at] = as_mask(masks[at], out.shape[1])
        except ValueError as error:
            if must_act[at]:
                raise EnvError(f"answer {at}: {error}") from None


def _value_problem(masks: np.ndarray) -> str | None:
    """Why numbers are no masks, in one line, or None."""
    if masks.dtype.kind not in "biuf":
        return f"info['action_mask'] is {masks.dtype}: booleans, or 0 and 1, expected"
    bad = masks[(masks != 0) & (masks != 1)]
    if not len(bad):
        return None
    additive = "; where it is added to values, 0 and -inf, give mask == 0" if bad[0] < 0 else ""
    return (
        f"info['action_mask'] holds {bad[0]}: 1 or True allows an action, 0 or False forbids it"
        f"{additive}"
    )
