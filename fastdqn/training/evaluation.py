"""Greedy evaluation: whole episodes in parallel, none favoured for being short."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastdqn.envs import EnvStream


class Stopped(Exception):
    """An evaluation was left because the run was asked to end."""


class Promises(NamedTuple):
    """What a policy expects, where that can be compared with what comes.

    expected  (obs [N, *], mask [N, A] or nothing) to expected discounted returns [N, A]
    gamma     that they are discounted by
    """

    expected: Callable[..., np.ndarray]
    gamma: float


class Evaluation(NamedTuple):
    """returns [E] float64, undiscounted; lengths [E] int64; cut: episodes ended by the step cap.

    predicted, discounted  [E] float64 of episodes' first observations: the value of the best
    action, and the discounted return that came; None where nothing was promised
    """

    returns: np.ndarray
    lengths: np.ndarray
    cut: int
    predicted: np.ndarray | None = None
    discounted: np.ndarray | None = None

    def summary(self) -> dict[str, float | int]:
        promised = {}
        if self.predicted is not None and self.discounted is not None:
            promised = {
                "mean_predicted": float(self.predicted.mean()),
                "mean_discounted": float(self.discounted.mean()),
            }
        return {
            "episodes": len(self.returns),
            "mean_return": float(self.returns.mean()),
            "std_return": float(self.returns.std()),
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "cut_episodes": self.cut,
            **promised,
        }


def evaluate(
    policy: Callable[..., np.ndarray],
    stream: EnvStream,
    episodes: int,
    max_steps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    promises: Promises | None = None,
) -> Evaluation:
    """Run episodes to their end, or to max_steps, in rounds of one episode a lane.

    A round lasts until its longest episode is over: taking whichever episodes end first would
    count short ones more often. A cut episode counts with the return it has.
    policy  obs [N, *], and mask [N, A] where there are masks, to actions [N] int64, from 0
    seed    of the first round's first lane
    stop    whether someone asked to end; raises Stopped then
    """
    n = stream.num_lanes
    kept = Evaluation(
        np.zeros(episodes), np.zeros(episodes, np.int64), 0, np.zeros(episodes), np.zeros(episodes)
    )
    cut = 0
    for first in range(0, episodes, n):
        of_round = slice(first, min(first + n, episodes))
        parts = [each[of_round] for each in kept if isinstance(each, np.ndarray)]
        cut += _run_round(policy, stream, max_steps, seed + first, stop, promises, *parts)
    if promises is None:
        return Evaluation(kept.returns, kept.lengths, cut)
    return kept._replace(cut=cut)


def _run_round(
    policy, stream, max_steps, seed, stop, promises, returns, lengths, predicted, discounted
) -> int:
    """One episode in each of the first len(returns) lanes; returns how many were cut."""
    running = np.zeros(stream.num_lanes, np.bool_)
    running[: len(returns)] = True
    total, worth = np.zeros(stream.num_lanes), np.zeros(stream.num_lanes)
    steps = np.zeros(stream.num_lanes, np.int64)
    cut = 0
    stream.start(seed)
    if promises is not None:
        predicted[:] = promises.expected(*_told(stream)).max(1)[: len(returns)]
    while running.any():
        if stop():
            raise Stopped
        stream.send(policy(*_told(stream)))
        step = stream.recv()
        reward = step.reward * running[step.lanes]
        total[step.lanes] += reward
        if promises is not None:
            worth[step.lanes] += reward * promises.gamma ** steps[step.lanes]
        steps[step.lanes] += running[step.lanes]
        running[step.ended_lanes] = False
        over = running & (steps >= max_steps)
        cut += int(over.sum())
        running &= ~over
    for kept, of_lanes in ((returns, total), (lengths, steps), (discounted, worth)):
        kept[:] = of_lanes[: len(kept)]
    return cut


def _told(stream: EnvStream) -> tuple[np.ndarray, ...]:
    return (stream.obs,) if stream.mask is None else (stream.obs, stream.mask)
