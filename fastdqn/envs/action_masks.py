"""MaskReader: reads the actions that an environment allows from info["action_mask"]."""

from typing import Any

import numpy as np

from fastdqn.envs.errors import EnvError, ResultError
from fastdqn.envs.infos import final_info, objects

FROM_INFO = "info['action_mask']"

# Steps without a mask after which an environment that returned a mask from reset() is rejected.
# Ours, untuned. An episode end triggers the check earlier.
_MOST_SILENT = 1_000


def as_mask(given: Any, num_actions: int | None, source: str = FROM_INFO) -> np.ndarray:
    """Converts one mask of any kind to bool[A].

    Args:
        given: The mask, one entry for each action.
        num_actions: A, or None if it is unknown.
        source: Where the mask was found, for error messages.

    Raises:
        ValueError: The shape is wrong, or an entry is neither 0 nor 1.
    """
    mask = np.asarray(given)
    if mask.ndim != 1 or num_actions not in (None, len(mask)):
        raise ResultError(
            f"{source} has shape {mask.shape}: expected one entry for each of {num_actions} actions"
        )
    if mask.dtype == np.bool_:
        return mask
    allowed = mask != 0
    # On a few entries, comparing bytes is faster than (allowed == mask).all().
    if mask.dtype.kind in "iu" and allowed.astype(mask.dtype).tobytes() == mask.tobytes():
        return allowed
    if (line := _value_problem(mask, source)) is not None:
        raise ResultError(line)
    return allowed


class MaskReader:
    """Reads action masks of R sub-environments; one without a mask allows all actions.

    Attributes:
        mask: bool[R, A], the actions allowed now in each sub-environment of the last step.

    Args:
        num_ready: R.
        num_actions: A.
        same_step: Whether a sub-environment whose episode ends is reset in the same step. Its mask
            is then the mask of the reset.
    """

    def __init__(self, num_ready: int, num_actions: int, same_step: bool = False):
        self.mask = np.ones((num_ready, num_actions), np.bool_)
        self._same_step = same_step
        self._silent, self._steps_give = 0, False

    def read(
        self, info: dict[str, Any], lanes: np.ndarray, ended: np.ndarray, fresh: np.ndarray
    ) -> None:
        """Reads the masks of one step.

        Args:
            info: The batched info dict.
            lanes: int64[R], the sub-environments of this step.
            ended: bool[R], whether the episode ended in this step.
            fresh: bool[R], whether the observation is the first of an episode.

        Raises:
            EnvError: A shape or a value is wrong, a sub-environment that must act allows no action,
                or steps have no mask although resets do.
        """
        if not self._steps_give:
            self._require_masks_of_steps(info, ended, fresh)
        over = ended & (not self._same_step)
        _read(info, self.mask, np.arange(len(self.mask)), ~over)
        self._require_some(lanes, over)

    def read_some(self, info: dict[str, Any], lanes: np.ndarray, positions: np.ndarray) -> None:
        """Reads the masks of restarted sub-environments only; raises as read() does."""
        everyone = np.ones(len(lanes), np.bool_)
        _read(info, self.mask, positions, everyone)
        self._require_some(lanes, ~everyone)

    def before_restart(
        self, ended: np.ndarray, info: dict[str, Any], restarted: bool
    ) -> np.ndarray:
        """Returns bool[R, A], the masks at the last observations of the episodes that ended.

        With DISABLED the mask was read already. With SAME_STEP it is in final_info. All actions are
        allowed if it is missing.
        """
        last = self.mask.copy()
        if restarted:
            _read(final_info(info), last, ended, np.zeros(len(last), np.bool_))
            _free(last)
        return last

    def _require_masks_of_steps(
        self, info: dict[str, Any], ended: np.ndarray, fresh: np.ndarray
    ) -> None:
        """Rejects a mask from reset() alone: it would allow all actions from the first step on."""
        stepped = ~fresh & ~(ended & self._same_step)  # their masks come from step()
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
                "info['action_mask'] is returned by reset() but not by step(). Return it from "
                "both, since each mask is valid for one observation only"
            )

    def _require_some(self, lanes: np.ndarray, over: np.ndarray) -> None:
        nothing = ~self.mask.any(1)
        if nothing.any():
            stuck = np.flatnonzero(nothing & ~over)
            if len(stuck):
                raise EnvError(
                    f"env {lanes[stuck[0]]}: the action mask allows no action: allow one until the "
                    "episode ends"
                )
            _free(self.mask)


def _free(mask: np.ndarray) -> None:
    """Allows all actions where none is allowed: the episode is over and no action is taken."""
    mask[~mask.any(1)] = True


def _read(
    info: dict[str, Any], out: np.ndarray, positions: np.ndarray, must_act: np.ndarray
) -> None:
    """Writes the masks of info to rows of out, bool[R, A]; a missing mask allows all actions.

    must_act, bool[R], marks the rows whose masks must be valid. Elsewhere an invalid mask counts as
    missing.
    """
    out[positions] = True
    given = info.get("action_mask")
    if given is None:
        return
    if "_action_mask" in info:  # marks the sub-environments that returned a mask
        positions = positions[np.asarray(info["_action_mask"], np.bool_)[positions]]
    if not len(positions):
        return
    masks = objects(given) if isinstance(given, list | tuple) else np.asarray(given)
    if masks.ndim < 1 or len(masks) <= positions[-1]:
        raise EnvError("info['action_mask'] has no mask for each sub-environment")
    if masks.dtype == object:  # sub-environments that return lists: 1 us for each
        _read_each(masks, out, positions, must_act)
        return
    masks = masks[positions]
    if masks.shape[1:] != out.shape[1:]:
        raise EnvError(
            f"info['action_mask'] has shape {masks.shape[1:]}: expected one entry for each of "
            f"{out.shape[1]} actions"
        )
    # Gymnasium's masks are int8, whose bytes are those of a bool array.
    if masks.dtype == np.int8 and masks.view(np.uint8).max() <= 1:
        masks = masks.view(np.bool_)
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
                raise EnvError(f"row {at}: {error}") from None


def _value_problem(masks: np.ndarray, source: str = FROM_INFO) -> str | None:
    """Returns one line on why the numbers are not a mask, or None."""
    if masks.dtype.kind not in "biuf":
        return f"{source} has dtype {masks.dtype}: expected booleans, or 0 and 1"
    bad = masks[(masks != 0) & (masks != 1)]
    if not len(bad):
        return None
    additive = ". For an additive mask of 0 and -inf, return mask == 0" if bad[0] < 0 else ""
    return (
        f"{source} contains {bad[0]}: use 1 or True for an allowed action and 0 or "
        f"False for a forbidden one{additive}"
    )
