"""Sorting: what R lanes are told, and what they answer: transitions, starts and ends.

In NumPy each of some thirty small operations costs a microsecond whatever the number of lanes.
"""

from typing import Any

import numpy as np

from fastdqn.kernels.jit import kernel


class Marks:
    """Of each of R lanes that answered, all [R] bool.

    terminated, truncated  as it says
    ended   whether it said either
    fresh   whether this is a first observation, and no transition
    begins  whether an episode begins here
    over    whether an episode is over here, to be told: lost lives end none
    """

    def __init__(self, ready: int):
        self.terminated, self.truncated = np.zeros((2, ready), np.bool_)
        self.ended, self.fresh, self.begins, self.over = np.zeros((4, ready), np.bool_)


class Sorted:
    """Memory for one delivery of at most R lanes; sort() overwrites it.

    lanes, action [R] int64, reward [R] float64, terminated, truncated [R] bool of transitions,
    and at [R] int64, their positions among those that answered; start_lanes, start_at [R] of
    starts; ended_lanes [R], returns [R] float64, lengths [R] int64 of ends
    """

    def __init__(self, ready: int):
        self.lanes, self.action, self.at = np.zeros((3, ready), np.int64)
        self.reward = np.zeros(ready, np.float64)
        self.terminated, self.truncated = np.zeros((2, ready), np.bool_)
        self.start_lanes, self.start_at, self.ended_lanes, self.lengths = np.zeros(
            (4, ready), np.int64
        )
        self.returns = np.zeros(ready, np.float64)


def hand_out(lanes, action, num_actions, start, kept, sent) -> bool:
    """Keep each lane's action, from 0, in kept [N], and fill sent [R] with the environment's.

    returns  False, with nothing kept, where one is outside 0 to num_actions - 1
    """
    return _hand_out(lanes, action, num_actions, start, kept, sent)


def tell_apart(
    _info: dict[str, Any], lanes, marks: Marks, next_step: bool, unseen, ended_before
) -> tuple[int, int]:
    """Say of lanes [R] what ended, is fresh, begins or is over, by what terminated and truncated.

    next_step  whether the answer after an end is the next start; unseen, ended_before [N] bool are
               brought up to date
    returns    how many ended, and the first position that is fresh too, or -1
    """
    return _tell_apart(
        lanes, marks.terminated, marks.truncated, next_step, unseen, ended_before,
        marks.ended, marks.fresh, marks.begins, marks.over,
    )  # fmt: skip


def sort(
    lanes, reward, marks: Marks, action, returns, lengths, steps, told: Sorted
) -> tuple[int, int, int, int]:
    """Fill the arrays of a Sorted, and count steps, returns and lengths [N] on.

    returns  (transitions M, starts S, ends E, position of a reward that is not finite as
              float32, which the replay stores, or -1)
    """
    return _sort(
        lanes, reward, marks.terminated, marks.truncated, marks.fresh, marks.begins, marks.over,
        action, returns, lengths,
        steps, told.lanes, told.action, told.reward, told.terminated, told.truncated, told.at,
        told.start_lanes, told.start_at, told.ended_lanes, told.returns, told.lengths,
    )  # fmt: skip


@kernel
def _hand_out(lanes, action, num_actions, start, kept, sent):
    for a in action:
        if a < 0 or a >= num_actions:
            return False
    for i in range(len(lanes)):
        kept[lanes[i]] = action[i]
        sent[i] = action[i] + start
    return True


@kernel
def _tell_apart(
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
