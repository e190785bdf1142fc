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


def require_next_step(lanes: np.ndarray, ended: np.ndarray, fresh: np.ndarray, info: dict) -> None:
    """Raises EnvError unless an episode's end is followed by a call that resets.

    lanes [R] int64 · ended [R] bool, in this call · fresh [R] bool, whether this call resets
    """
    # An end that brings final_obs was reset in the same call: its obs is of the next episode.
    contrary = ended if "final_obs" in info else ended & fresh
    if contrary.any():
        raise EnvError(
            f"lane {lanes[contrary][0]}: an episode's end was not followed by a call "
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
