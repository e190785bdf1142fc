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
        flags: bool[6, R], all of them in this order. A kernel takes 0.2 us per array argument.
    """

    def __init__(self, ready: int):
        self.flags = np.zeros((6, ready), np.bool_)
        self.terminated, self.truncated, self.ended, self.fresh, self.begins, self.over = self.flags


class Counted:
    """What sort() keeps of the N sub-environments from step to step.

    Attributes:
        action: int64[N], the last action.
        lengths: int64[N], steps of the episode.
        steps: int64[N], steps since the start of the stream.
        returns: float64[N], return of the episode.
        integers: int64[3, N], the first three in this order.
    """

    def __init__(self, num_lanes: int):
        self.integers = np.zeros((3, num_lanes), np.int64)
        self.action, self.lengths, self.steps = self.integers
        self.returns = np.zeros(num_lanes, np.float64)


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
        integers, numbers, flags: The arrays above as rows of one array for each dtype.
    """

    def __init__(self, ready: int):
        self.integers = np.zeros((7, ready), np.int64)
        self.lanes, self.action, self.at, self.start_lanes, self.start_at = self.integers[:5]
        self.ended_lanes, self.lengths = self.integers[5:]
        self.numbers = np.zeros((2, ready), np.float64)
        self.reward, self.returns = self.numbers
        self.flags = np.zeros((2, ready), np.bool_)
        self.terminated, self.truncated = self.flags


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
    return _mark_steps(lanes, marks.flags, next_step, unseen, ended_before)


def sort(lanes, reward, marks: Marks, counted: Counted, out: Sorted) -> tuple[int, int, int, int]:
    """Fills out, and updates steps, returns and lengths of counted.

    Returns:
        The numbers of transitions M, starts S and ends E, and the first row whose reward is not
        finite as float32, the dtype of the replay, or -1.
    """
    return _sort(
        lanes, reward, marks.flags, counted.integers, counted.returns, out.integers, out.numbers,
        out.flags,
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
def _mark_steps(lanes, flags, next_step, unseen, ended_before):
    terminated, truncated, ended, fresh, begins, over = flags
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
def _sort(lanes, reward, flags, integers, returns, out_integers, out_numbers, out_flags):
    terminated, truncated, _, fresh, begins, over = flags
    action, lengths, steps = integers
    out_lanes, out_action, out_at, start_lanes, start_at, ended_lanes, out_lengths = out_integers
    out_reward, out_returns = out_numbers
    out_terminated, out_truncated = out_flags
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
