"""Sorting: what R lanes are told, and what they answer: transitions, starts and ends.

In NumPy each of some thirty small operations costs a microsecond whatever the number of lanes.
"""

import numpy as np

from fastdqn.kernels import kernel


class Sorted:
    """Memory for one delivery of at most R lanes; sort() overwrites it.

    lanes, action [R] int64, reward [R] float32, terminated, truncated [R] bool of transitions,
    and at [R] int64, their positions among those that answered; start_lanes, start_at [R] of
    starts; ended_lanes [R], returns [R] float64, lengths [R] int64 of ends
    """

    def __init__(self, ready: int):
        self.lanes, self.action, self.at = np.zeros((3, ready), np.int64)
        self.reward = np.zeros(ready, np.float32)
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
    lanes, terminated, truncated, next_step, unseen, ended_before, ended, fresh, begins
) -> tuple[int, int]:
    """Say which positions [R] ended an episode, which hold a first observation, which begin one.

    next_step  whether the answer after an end is the next start; unseen, ended_before [N] are
               brought up to date
    returns    how many ended, and the first position that did both, or -1
    """
    return _tell_apart(
        lanes, terminated, truncated, next_step, unseen, ended_before, ended, fresh, begins
    )


def sort(
    lanes, reward, terminated, truncated, fresh, begins, over, action, returns, lengths, steps,
    told: Sorted,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Fill the arrays of a Sorted, and count steps, returns and lengths [N] on.

    fresh, begins, over [R] bool  no transition, but a first observation; a start; an end to tell

    returns  (transitions M, starts S, ends E, position of a reward that is not finite, or -1)
    """
    return _sort(
        lanes, reward, terminated, truncated, fresh, begins, over, action, returns, lengths,
        steps, told.lanes, told.action, told.reward, told.terminated, told.truncated, told.at,
        told.start_lanes, told.start_at, told.ended_lanes, told.returns, told.lengths,
    )  # fmt: skip


def first_nonfinite(flat) -> int:
    """Index of the first NaN or infinity in flat [L] float32, or -1."""
    return _first_nonfinite(flat)


@kernel
def _first_nonfinite(flat):
    for i in range(len(flat)):
        if not np.isfinite(flat[i]):
            return i
    return -1


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
    lanes, terminated, truncated, next_step, unseen, ended_before, ended, fresh, begins
):
    count, both = 0, -1
    for i in range(len(lanes)):
        lane = lanes[i]
        ended[i] = terminated[i] or truncated[i]
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
            if bad < 0 and not np.isfinite(reward[i]):
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
