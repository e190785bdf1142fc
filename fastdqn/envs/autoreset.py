"""Autoreset modes: reads the declared mode and checks that the environment follows it."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.envs.errors import EnvError
from fastdqn.envs.infos import OLD_FINAL_OBS
from fastdqn.envs.sub_env import shares_memory

_REMEDY = "set its metadata['autoreset_mode'] to the mode that it implements"
# Episode ends whose last observations all equal the next first ones before a warning is issued; an
# environment whose episodes end where they begin looks the same. After _MOST_ENDS without a verdict
# the check stops, since observations may not change at all. Ours, untuned.
_SUSPICIOUS_ENDS, _MOST_ENDS = 3, 50


def read_mode(envs: VectorEnv) -> tuple[AutoresetMode, bool]:
    """Returns the autoreset mode and whether it is declared.

    The attribute of the instance wins, since class-level metadata may describe another instance.
    NEXT_STEP, Gymnasium's default, is assumed if nothing is declared.

    Raises:
        ValueError: The declared value is not an autoreset mode.
    """
    mode = getattr(envs.unwrapped, "autoreset_mode", None)
    if mode is None:
        mode = (envs.metadata or {}).get("autoreset_mode")
    if mode is None:
        return AutoresetMode.NEXT_STEP, False
    if isinstance(mode, AutoresetMode):
        return mode, True
    # Accepts the names of the enumeration, its values, and common spellings of both.
    word = str(mode).rpartition(".")[2].replace("_", "").replace("-", "").lower()
    for known in AutoresetMode:
        if word == known.name.replace("_", "").lower():
            return known, True
    names = ", ".join(f"AutoresetMode.{known.name}" for known in AutoresetMode)
    raise ValueError(f"the autoreset mode is {mode!r:.60}, must be one of {names}")


def undeclared(envs: VectorEnv) -> str:
    """Returns the warning for an environment that declares no autoreset mode."""
    return (
        f"{type(envs.unwrapped).__name__} declares no autoreset mode, so AutoresetMode.NEXT_STEP "
        "is assumed: the call after an episode end resets and returns the first observation. If "
        "it resets in the same step, every last observation is wrong. Set "
        "metadata = {'autoreset_mode': AutoresetMode...} on its class"
    )


def require_next_step(
    lanes: np.ndarray, ended: np.ndarray, both: int, info: dict, paid: int = -1
) -> None:
    """Raises EnvError unless the call after each episode end resets.

    Args:
        lanes: int64[R], the sub-environments of this call.
        ended: bool[R], whether the episode ended in this call.
        both: First row in which a call that resets ended an episode too, or -1.
        info: The batched info dict.
        paid: First row in which a call that resets returned a reward, or -1.
    """
    contrary, why = both, "the call after an episode end ended an episode too"
    # With a last observation in info, the reset was in the same call: obs is of the next episode.
    for key in ("final_obs", OLD_FINAL_OBS):
        if key in info and ended.any():
            contrary, why = int(ended.argmax()), f"an episode end came with infos[{key!r}]"
    if contrary < 0 and paid >= 0:
        contrary, why = paid, "the call after an episode end returned a reward"
    if contrary >= 0:
        old = ". The key that is read is infos['final_obs']" if OLD_FINAL_OBS in info else ""
        if not old and contrary != both:
            old = ", and return no key 'final_obs' from a sub-environment"
        raise EnvError(
            f"env {lanes[contrary]}: {why}. With AutoresetMode.NEXT_STEP that call resets; "
            f"{_REMEDY}{old}"
        )


def require_final_obs(lane: int, info: dict) -> None:
    """Raises EnvError unless an episode end comes with its last observation (SAME_STEP)."""
    if "final_obs" not in info:
        old = f" (infos[{OLD_FINAL_OBS!r}] is its old name)" if OLD_FINAL_OBS in info else ""
        raise EnvError(
            f"env {lane}: an episode ended without infos['final_obs'], although the environment "
            f"declares AutoresetMode.SAME_STEP{old}; {_REMEDY}"
        )


def require_no_restart(lane: int, info: dict) -> None:
    """Raises EnvError if the environment reset itself at an episode end (DISABLED)."""
    if "final_obs" in info or OLD_FINAL_OBS in info:
        raise EnvError(
            f"env {lane}: reset in the call that ended its episode, although the environment "
            f"declares AutoresetMode.DISABLED; {_REMEDY}"
        )


def require_unmoved(before: np.ndarray, after: np.ndarray, reset: np.ndarray) -> None:
    """Raises EnvError if a reset of some sub-environments changed others' observations [N, *]."""
    # NaN != NaN is not a change. A NaN is reported later.
    changed = (after != before) & ((after == after) | (before == before))
    moved = changed.reshape(len(after), -1).any(1)
    moved[reset] = False
    if moved.any():
        raise EnvError(
            f"env {np.flatnonzero(moved)[0]}: a reset of other sub-environments changed it, "
            "although the environment declares AutoresetMode.DISABLED. Make reset() follow "
            "options['reset_mask']"
        )


class FinalObsCheck:
    """Detects last observations that the reset of the same step has overwritten (SAME_STEP).

    An environment that reuses one array returns it as the last observation. Its reset then writes
    the first observation of the next episode into that array before it can be read.
    """

    def __init__(self, envs: VectorEnv, same_step: bool):
        self._envs = envs.unwrapped
        self._equal = self._ends = 0
        self._over = not same_step

    @property
    def looks(self) -> bool:
        """Whether the check still needs the observation before an episode end."""
        return not self._over

    def __call__(
        self, given: Any, lane: int, before: np.ndarray, last: np.ndarray, first: np.ndarray
    ) -> str | None:
        """Returns a warning, at most once, or None.

        Args:
            given: The entry of final_obs.
            lane: The sub-environment.
            before: Its observation one step before the episode end.
            last: Its last observation.
            first: The first observation of the next episode.
        """
        if self._over:
            return None
        self._ends += 1
        held = getattr(self._envs, "_env_obs", None)  # SyncVectorEnv's, as reset() returned it
        if isinstance(held, list) and len(held) > lane and shares_memory(given, held[lane]):
            self._over = True
        elif not np.array_equal(last, first):
            self._over = True  # one end with two different observations proves that it is correct
            return None
        else:  # observations that never change are no evidence
            self._equal += not np.array_equal(before, first)
            self._over = self._equal == _SUSPICIOUS_ENDS or self._ends == _MOST_ENDS
        if not self._over or self._ends == _MOST_ENDS:
            return None
        return (
            f"infos['final_obs'] of {type(self._envs).__name__} contains the first observation of "
            "the next episode. The environment probably returns the same array at each step: "
            "return a copy of it, obs.copy(). Otherwise truncated episodes are learned with a "
            "wrong last observation"
        )
