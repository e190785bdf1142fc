"""Lives: in ale-py's environments a lost life may end a value where the game goes on."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fastdqn.kernels import kernel


def may_lose_lives(envs: VectorEnv) -> bool:
    """Whether terminated may tell of a life, with no reset behind it.

    AtariVectorEnv does not keep its argument life_loss_info: those made here say it, of others
    it is not known, and LifeLosses is right about either.
    """
    inner = envs.unwrapped
    is_ale = type(inner).__module__ == "ale_py.vector_env"
    return is_ale and getattr(inner, "life_loss_info", True)


class LifeLosses:
    """Tells lost lives from resets, for num_lanes lanes.

    Frames before the present game are frame_number - episode_frame_number: only a reset changes
    them. The number of lives tells less: after a reset it is the next game's, a life lost at the
    frame limit ends the game too, and some games go on for a while with none.
    """

    def __init__(self, num_lanes: int):
        self._before = np.zeros(num_lanes, np.int64)

    def tell(
        self, info: dict[str, Any], lanes, terminated, truncated, next_step, unseen, waits,
        ended, fresh, begins, over,
    ) -> tuple[int, int]:  # fmt: skip
        """As tell_apart(), where an end need not be a game's.

        waits [N] bool  whether a lane's last answer was terminated; kept up to date
        begins [R] bool  a start: after an end that may be a life's, the same observation again
        over [R] bool    a game is over; after a reset in NEXT_STEP, the one before
        """
        return _tell(
            info["frame_number"], info["episode_frame_number"], lanes, terminated, truncated,
            next_step, unseen, waits, self._before, ended, fresh, begins, over,
        )  # fmt: skip

    def prepare(self, *marks) -> None:
        """Compile, before anyone looks at a clock; marks are of no lane."""
        none = np.empty(0, np.int32)
        self.tell({"frame_number": none, "episode_frame_number": none}, *marks)


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
