"""Lives: in ale-py's environments a lost life may end a value where the game goes on."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fastdqn.envs.optional_packages import is_from
from fastdqn.envs.step import Step
from fastdqn.envs.transitions import Marks
from fastdqn.kernels.jit import kernel


def may_lose_lives(envs: VectorEnv) -> bool:
    """Whether terminated may tell of a life, with no reset behind it.

    AtariVectorEnv does not keep its argument life_loss_info: those made here say it, of others
    it is not known, and LifeLosses is right about either.
    """
    inner = envs.unwrapped
    return is_from(inner, "ale_py", "AtariVectorEnv") and getattr(inner, "life_loss_info", True)


class LifeLosses:
    """Tells lost lives from resets, for num_lanes lanes.

    Frames before the present game are frame_number - episode_frame_number: only a reset changes
    them. The number of lives tells less: after a reset it is the next game's, a life lost at the
    frame limit ends the game too, and some games go on for a while with none.
    """

    def __init__(self, num_lanes: int):
        self._before = np.zeros(num_lanes, np.int64)

    def tell_apart(
        self, info: dict[str, Any], lanes, marks: Marks, next_step: bool, unseen, waits
    ) -> tuple[int, int]:
        """As sorting.tell_apart(), where an end need not be a game's.

        marks  begins: after an end that may be a life's, with the same observation again;
               over: a game is; after a reset in NEXT_STEP, the one before
        waits [N] bool  whether a lane's last answer was terminated; kept up to date
        """
        return _tell(
            info["frame_number"], info["episode_frame_number"], lanes,
            marks.terminated, marks.truncated, next_step, unseen, waits, self._before,
            marks.ended, marks.fresh, marks.begins, marks.over,
        )  # fmt: skip


def with_last_starts(step: Step, lanes: np.ndarray, marks: Marks, last_obs: np.ndarray) -> Step:
    """A delivery of SAME_STEP with what NEXT_STEP tells of a game's last life: it is a start until
    the reset tells, so that both modes leave equal lanes.

    lanes [R] that answered; last_obs [R, *] before the reset
    """
    at = np.flatnonzero(marks.over & marks.terminated)
    return step._replace(
        start_lanes=np.concatenate((lanes[at], step.start_lanes)),
        start_obs=np.concatenate((last_obs[at], step.start_obs)),
    )


@kernel
def _tell(
    frame, episode_frame, lanes, terminated, truncated, next_step, unseen, waits, before_lane,
    ended, fresh, begins, over,
):  # fmt: skip
    count = 0
    for i in range(len(lanes)):
        lane = lanes[i]
        before = frame[i] - episode_frame[i]
        reset = unseen[lane] or before != before_lane[lane]
        before_lane[lane] = before
        ended[i] = terminated[i] or truncated[i]
        if next_step:
            fresh[i] = reset
            over[i] = truncated[i] or (reset and waits[lane])
            begins[i] = reset or terminated[i]
        else:
            fresh[i] = unseen[lane]
            over[i] = ended[i] and reset
            begins[i] = fresh[i] or ended[i]
        unseen[lane], waits[lane] = False, terminated[i]
        count += ended[i]
    return count, -1
