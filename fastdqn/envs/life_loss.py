"""LifeLosses: tells lost lives in ale-py's environments from resets."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fastdqn.envs.optional_packages import is_from
from fastdqn.envs.step import Step
from fastdqn.envs.transitions import Marks
from fastdqn.kernels.jit import kernel


def may_lose_lives(envs: VectorEnv) -> bool:
    """Whether terminated may mean a lost life, with no reset after it.

    AtariVectorEnv does not keep its argument life_loss_info. Environments made here have it as an
    attribute. For others it is unknown, and LifeLosses is correct in both cases.
    """
    inner = envs.unwrapped
    return is_from(inner, "ale_py", "AtariVectorEnv") and getattr(inner, "life_loss_info", True)


class LifeLosses:
    """Distinguishes lost lives from resets.

    frame_number - episode_frame_number counts the frames before the present game, and only a reset
    changes it. The number of lives is less reliable: after a reset it is the next game's, a life
    lost at the frame limit ends the game too, and some games run for a while with zero lives.

    Args:
        num_lanes: Number of sub-environments.
    """

    def __init__(self, num_lanes: int):
        self._before = np.zeros(num_lanes, np.int64)

    def mark_steps(
        self, info: dict[str, Any], lanes, marks: Marks, next_step: bool, unseen, waits
    ) -> tuple[int, int]:
        """Marks rows as transitions.mark_steps() does, where an episode end may be a lost life.

        marks.begins is set after an end that may be a lost life, with the same observation again.
        marks.over is set when a game is over: in NEXT_STEP at the reset that follows. waits,
        bool[N], holds whether the last result was terminated, and is updated.
        """
        return _mark(
            info["frame_number"], info["episode_frame_number"], lanes,
            marks.terminated, marks.truncated, next_step, unseen, waits, self._before,
            marks.ended, marks.fresh, marks.begins, marks.over,
        )  # fmt: skip


def with_last_starts(step: Step, lanes: np.ndarray, marks: Marks, last_obs: np.ndarray) -> Step:
    """Adds to a SAME_STEP result the episode start that NEXT_STEP has for a game's last life.

    In NEXT_STEP a lost life is a start until the reset shows that the game is over. With this both
    modes produce equal transitions.

    Args:
        step: The result.
        lanes: int64[R], the sub-environments of the step.
        marks: Their marks.
        last_obs: [R, *], observations before the reset.
    """
    at = np.flatnonzero(marks.over & marks.terminated)
    return step._replace(
        start_lanes=np.concatenate((lanes[at], step.start_lanes)),
        start_obs=np.concatenate((last_obs[at], step.start_obs)),
    )


@kernel
def _mark(
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
