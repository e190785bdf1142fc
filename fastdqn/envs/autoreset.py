"""Autoreset modes: what environments declare, and whether they do it."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.envs.errors import EnvError
from fastdqn.envs.infos import OLD_FINAL_OBS
from fastdqn.envs.sub_env import shares_memory

_REMEDY = "let its metadata['autoreset_mode'] say what it does"
# Episode ends whose last observations all equal the next first ones, before that is suspicious: an
# environment that always ends where it began does the same. Ends after which nothing is looked for
# any longer, where observations do not change at all. Ours, untuned.
_SUSPICIOUS_ENDS, _MOST_ENDS = 3, 50


def read_mode(envs: VectorEnv) -> tuple[AutoresetMode, bool]:
    """(mode, whether it is declared): the instance's own mode; class-level metadata may be of
    another instance. NEXT_STEP, Gymnasium's default, where nothing is declared.

    Raises ValueError, one line, where what is declared is no mode.
    """
    mode = getattr(envs.unwrapped, "autoreset_mode", None)
    if mode is None:
        mode = (envs.metadata or {}).get("autoreset_mode")
    if mode is None:
        return AutoresetMode.NEXT_STEP, False
    if isinstance(mode, AutoresetMode):
        return mode, True
    # The words of the enumeration's names, its values, and what people write instead.
    word = str(mode).rpartition(".")[2].replace("_", "").replace("-", "").lower()
    for known in AutoresetMode:
        if word == known.name.replace("_", "").lower():
            return known, True
    names = ", ".join(f"AutoresetMode.{known.name}" for known in AutoresetMode)
    raise ValueError(f"the autoreset mode is {mode!r:.60}: it must be one of {names}")


def undeclared(envs: VectorEnv) -> str:
    """The warning where no mode is declared."""
    return (
        f"{type(envs.unwrapped).__name__} declares no autoreset mode: AutoresetMode.NEXT_STEP is "
        "assumed (the call after an episode's end resets, and returns the first observation). If "
        "it resets in the same step, every last observation is wrong: set "
        "metadata = {'autoreset_mode': AutoresetMode...} on its class"
    )


def require_next_step(
    lanes: np.ndarray, ended: np.ndarray, both: int, info: dict, paid: int = -1
) -> None:
    """Raises EnvError unless an episode's end is followed by a call that resets.

    lanes [R] int64 · ended [R] bool, in this call
    both  the first position where a call that resets ended an episode too, or -1
    paid  the first position where a call that resets gave a reward, or -1
    """
    contrary, why = both, "the call after an episode's end ended an episode, too"
    # An end that brings its last observation was reset in the same call: its obs is of the next.
    for key in ("final_obs", OLD_FINAL_OBS):
        if key in info and ended.any():
            contrary, why = int(ended.argmax()), f"an episode's end brought infos[{key!r}]"
    if contrary < 0 and paid >= 0:
        contrary, why = paid, "the call after an episode's end gave a reward"
    if contrary >= 0:
        old = "; infos['final_obs'] is the name that is read" if OLD_FINAL_OBS in info else ""
        if not old and contrary != both:
            old = ", and let no environment give a key 'final_obs' of its own"
        raise EnvError(
            f"lane {lanes[contrary]}: {why}, so an episode's end is not followed by a call that "
            f"resets, as AutoresetMode.NEXT_STEP has it; {_REMEDY}{old}"
        )


def require_final_obs(lane: int, info: dict) -> None:
    """Raises EnvError unless the end of an episode brings its last observation: SAME_STEP."""
    if "final_obs" not in info:
        old = f": infos[{OLD_FINAL_OBS!r}] is its old name" if OLD_FINAL_OBS in info else ""
        raise EnvError(
            f"lane {lane}: an episode ended without infos['final_obs'], although the environment "
            f"declares AutoresetMode.SAME_STEP{old}; {_REMEDY}"
        )


def require_no_restart(lane: int, info: dict) -> None:
    """Raises EnvError where the end of an episode was reset unasked: DISABLED."""
    if "final_obs" in info or OLD_FINAL_OBS in info:
        raise EnvError(
            f"lane {lane}: an episode's end was reset in the same call, although the environment "
            f"declares AutoresetMode.DISABLED; {_REMEDY}"
        )


def require_unmoved(before: np.ndarray, after: np.ndarray, reset: np.ndarray) -> None:
    """Raises EnvError where a reset of lanes reset [S] changed another's observation [N, *]."""
    # NaN != NaN is not a change; a NaN is reported later.
    changed = (after != before) & ((after == after) | (before == before))
    moved = changed.reshape(len(after), -1).any(1)
    moved[reset] = False
    if moved.any():
        raise EnvError(
            f"lane {np.flatnonzero(moved)[0]}: a reset of other lanes changed it, although "
            "the environment declares AutoresetMode.DISABLED: it must obey "
            "options['reset_mask']"
        )


class FinalObsCheck:
    """Looks for last observations that the reset of the same step has overwritten (SAME_STEP).

    An environment that reuses one array returns it as its last observation, and its reset writes
    the next episode's first observation into it before anyone can read it.
    """

    def __init__(self, envs: VectorEnv, same_step: bool):
        self._envs = envs.unwrapped
        self._equal = self._ends = 0
        self._over = not same_step

    @property
    def looks(self) -> bool:
        """Whether it still needs what was observed before an end."""
        return not self._over

    def __call__(
        self, given: Any, lane: int, before: np.ndarray, last: np.ndarray, first: np.ndarray
    ) -> str | None:
        """A warning for an end, at most once, or None.

        given  what final_obs holds for it
        before, last, first  of one lane, as they were read: what was observed a step before the
               end, the last observation, and the first one of the next episode
        """
        if self._over:
            return None
        self._ends += 1
        held = getattr(self._envs, "_env_obs", None)  # SyncVectorEnv's, as the reset returned it
        if isinstance(held, list) and len(held) > lane and shares_memory(given, held[lane]):
            self._over = True
        elif not np.array_equal(last, first):
            self._over = True  # one that differs is proof enough
            return None
        else:  # where nothing changes at all, equal says nothing
            self._equal += not np.array_equal(before, first)
            self._over = self._equal == _SUSPICIOUS_ENDS or self._ends == _MOST_ENDS
        if not self._over or self._ends == _MOST_ENDS:
            return None
        return (
            f"infos['final_obs'] of {type(self._envs).__name__} holds the first observation of the "
            "next episode, as where an environment returns the same array at each step: return a "
            "copy of it, obs.copy(), or truncated episodes are learned from with a wrong last "
            "observation"
        )
