"""Autoreset modes: what environments declare, and whether they do it."""

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.acting.failures import EnvError


def read_mode(envs: VectorEnv) -> AutoresetMode:
    """The instance's own mode; class-level metadata may speak of another instance."""
    mode = getattr(envs.unwrapped, "autoreset_mode", None)
    if mode is None:
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return AutoresetMode(mode)


def require_next_step(lanes: np.ndarray, ended: np.ndarray, both: int, info: dict) -> None:
    """Raises EnvError unless an episode's end is followed by a call that resets.

    lanes [R] int64 · ended [R] bool, in this call, some of them
    both  the first position where a call that resets ended an episode too, or -1
    """
    # An end that brings final_obs was reset in the same call: its obs is of the next episode.
    contrary = int(ended.argmax()) if "final_obs" in info else both
    if contrary >= 0:
        raise EnvError(
            f"lane {lanes[contrary]}: an episode's end was not followed by a call "
            "that resets, although the environment declares AutoresetMode.NEXT_STEP; let its "
            "metadata['autoreset_mode'] say what it does"
        )


def require_final_obs(lane: int, info: dict) -> None:
    """Raises EnvError unless the end of an episode brings its last observation: SAME_STEP."""
    if "final_obs" not in info:
        raise EnvError(
            f"lane {lane}: an episode ended without infos['final_obs'], although the environment "
            "declares AutoresetMode.SAME_STEP; let its metadata['autoreset_mode'] say what it does"
        )


def require_no_restart(lane: int, info: dict) -> None:
    """Raises EnvError where the end of an episode was reset unasked: DISABLED."""
    if "final_obs" in info:
        raise EnvError(
            f"lane {lane}: an episode's end was reset in the same call, although the environment "
            "declares AutoresetMode.DISABLED; let its metadata['autoreset_mode'] say what it does"
        )


def require_unmoved(before: np.ndarray, after: np.ndarray, reset: np.ndarray) -> None:
    """Raises EnvError where a reset of lanes reset [S] changed another's observation [N, *]."""
    # What is equal to nothing is equal to itself here: it is told as what it is later.
    changed = (after != before) & ((after == after) | (before == before))
    moved = changed.reshape(len(after), -1).any(1)
    moved[reset] = False
    if moved.any():
        raise EnvError(
            f"lane {np.flatnonzero(moved)[0]}: a reset of other lanes changed it, although "
            "the environment declares AutoresetMode.DISABLED: it must obey "
            "options['reset_mask']"
        )
