"""sort(): separates step results into transitions, episode starts and episode ends.

Compiled, since each of about thirty small NumPy operations would cost a microsecond.
"""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import kernel


class Marks:
    """Flags of the R sub-environments of a step, each bool[R].

    Attributes:
        terminated: As the environment returned it.
        truncated: As the environment returned it.
        ended: Either of them.
        fresh: The row is a first observation and not a transition.
        begins: An episode begins here.
        over: An episode to report is over here; a lost life ends none.
    """

    def __init__(self, ready: int):
        self.terminated, self.truncated = np.zeros((2, ready), np.bool_)
        self.ended, self.fresh, self.begins, self.over = np.zeros((4, ready), np.bool_)


class Sorted:
    """Output arrays of sort() for at most R rows, overwritten by each call.

    Attributes:
        lanes: int64[R], sub-environments of the transitions.
        action: int64[R].
        reward: float64[R].
        terminated: bool[R].
        truncated: bool[R].
        at: int64[R], rows of the transitions in the step.
        start_lanes: int64[R], sub-environments of the episode starts.
        start_at: int64[R], rows of the episode starts in the step.
        ended_lanes: int64[R], sub-environments of the episode ends.
        returns: float64[R], returns of the ended episodes.
        lengths: int64[R], lengths of the ended episodes.
    """

    def __init__(self, ready: int):
        self.lanes, self.action, self.at = np.zeros((3, ready), np.int64)
        self.reward = np.zeros(ready, np.float64)
        self.terminated, self.truncated = np.zeros((2, ready), np.bool_)
        self.start_lanes, self.start_at, self.ended_lanes, self.lengths = np.zeros(
            (4, ready), np.int64
        )
        self.returns = np.zeros(ready, np.float64)


def assign_actions(lanes, action, num_actions, start, kept, sent) -> bool:
    """Stores actions, counted from 0, in kept [N], and the environment's numbers in sent [R].

    Returns False, with nothing stored, if an action is outside 0 to num_actions - 1.
    """
    return _assign_actions(lanes, action, num_actions, start, kept, sent)


def mark_steps(
    _info: dict[str, Any], lanes, marks: Marks, next_step: bool, unseen, ended_before
) -> tuple[int, int]:
    """Sets ended, fresh, begins and over of marks from terminated and truncated.

    Args:
        _info: Not used; LifeLosses.mark_steps() needs it.
        lanes: int64[R], the sub-environments.
        marks: Their flags.
        next_step: Whether the result after an episode end is the next start (NEXT_STEP).
        unseen: bool[N], whether the next result is a first observation; updated.
        ended_before: bool[N], whether the last result ended an episode; updated.

    Returns:
        The number of ended episodes, and the first row that both ended and is fresh, or -1.
    """
    return _mark_steps(
        lanes, marks.terminated, marks.truncated, next_step, unseen, ended_before,
        marks.ended, marks.fresh, marks.begins, marks.over,
    )  # fmt: skip


def sort(
    lanes, reward, marks: Marks, action, returns, lengths, steps, out: Sorted
) -> tuple[int, int, int, int]:
    """Fills out, and updates steps, returns and lengths, each [N].

    Returns:
        The numbers of transitions M, starts S and ends E, and the first row whose reward is not
        finite as float32, the dtype of the replay, or -1.
    """
    return _sort(
        lanes, reward, marks.terminated, marks.truncated, marks.fresh, marks.begins, marks.over,
        action, returns, lengths,
        steps, out.lanes, out.action, out.reward, out.terminated, out.truncated, out.at,
        out.start_lanes, out.start_at, out.ended_lanes, out.returns, out.lengths,
    )  # fmt: skip


@kernel
def _assign_actions(lanes, action, num_actions, start, kept, sent):
    for a in action:
        if a < 0 or a >= num_actions:
            return False
    for i in range(len(lanes)):
        kept[lanes[i]] = action[i]
        sent[i] = action[i] + start
    return True


@kernel
def _mark_steps(
    lanes, terminated, truncated, next_step, unseen, ended_before, ended, fresh, begins, over
):
    count, both = 0, -1
    for i in range(len(lanes)):
        lane = lanes[i]
        ended[i] = over[i] = terminated[i] or truncated[i]
        fresh[i] = unseen[lane] or (next_step and ended_before[lane])
        begins[i] = fresh[i] or (ended[i] and not next_step)
        unseen[lane], ended_before[lane] = False, ended[i]
        count += ended[i]
        if ended[i] and fresh[i] and both < 0:
            both = i
    return count, both


@kernel
def _sort(
    lanes, reward, terminated, truncated, fresh, begins, over, action, returns, lengths, steps,
    out_lanes, out_action, out_reward, out_terminated, out_truncated, out_at,
    start_lanes, start_at, ended_lanes, out_returns, out_lengths,
):  # fmt: skip
    made, begun, finished, bad = 0, 0, 0, -1
    for i in range(len(lanes)):
        lane = lanes[i]
        if not fresh[i]:
            out_lanes[made], out_action[made], out_reward[made] = lane, action[lane], reward[i]
            out_terminated[made], out_truncated[made] = terminated[i], truncated[i]
            out_at[made] = i
            made += 1
            steps[lane] += 1
            returns[lane] += reward[i]
            lengths[lane] += 1
            if bad < 0 and not np.isfinite(np.float32(reward[i])):
                bad = i
        if begins[i]:
            start_lanes[begun], start_at[begun] = lane, i
            begun += 1
        if over[i]:
            ended_lanes[finished] = lane
            out_returns[finished], out_lengths[finished] = returns[lane], lengths[lane]
            returns[lane], lengths[lane] = 0.0, 0
            finished += 1
    return made, begun, finished, bad
