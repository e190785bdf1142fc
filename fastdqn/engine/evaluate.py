"""Greedy evaluation: whole episodes in parallel, none favoured for being short."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastdqn.acting import EnvStream


class Stopped(Exception):
    """An evaluation was left because the run was asked to end."""


class Evaluation(NamedTuple):
    """returns [E] float64, undiscounted; lengths [E] int64; cut: episodes ended by the step cap."""

    returns: np.ndarray
    lengths: np.ndarray
    cut: int

    def summary(self) -> dict[str, float | int]:
        return {
            "episodes": len(self.returns),
            "mean_return": float(self.returns.mean()),
            "std_return": float(self.returns.std()),
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "cut_episodes": self.cut,
        }


def evaluate(
    policy: Callable[..., np.ndarray],
    stream: EnvStream,
    episodes: int,
    max_steps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Run episodes to their end, or to max_steps, in rounds of one episode a lane.

    A round lasts until its longest episode is over: taking whichever episodes end first would
    count short ones more often. A cut episode counts with the return it has.
    policy  obs [N, *], and mask [N, A] where there are masks, to actions [N] int64, from 0
    seed    of the first round's first lane
    stop    whether someone asked to end; raises Stopped then
    """
    n = stream.num_lanes
    returns = np.zeros(episodes)
    lengths = np.zeros(episodes, np.int64)
    cut = 0
    for first in range(0, episodes, n):
        of_round = slice(first, min(first + n, episodes))
        cut += _run_round(policy, stream, max_steps, seed + first, stop, returns[of_round],
                          lengths[of_round])  # fmt: skip
    return Evaluation(returns, lengths, cut)


def _run_round(policy, stream, max_steps, seed, stop, returns, lengths) -> int:
    """One episode in each of the first len(returns) lanes; returns how many were cut."""
    running = np.zeros(stream.num_lanes, np.bool_)
    running[: len(returns)] = True
    total = np.zeros(stream.num_lanes)
    steps = np.zeros(stream.num_lanes, np.int64)
    cut = 0
    stream.start(seed)
    while running.any():
        if stop():
            raise Stopped
        told = (stream.obs,) if stream.mask is None else (stream.obs, stream.mask)
        stream.send(policy(*told))
        step = stream.recv()
        total[step.lanes] += step.reward * running[step.lanes]
        steps[step.lanes] += running[step.lanes]
        running[step.ended_lanes] = False
        over = running & (steps >= max_steps)
        cut += int(over.sum())
        running &= ~over
    returns[:], lengths[:] = total[: len(returns)], steps[: len(returns)]
    return cut
