"""evaluate(): greedy evaluation of whole episodes in parallel, without a bias to short ones."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fastdqn.config.recorded_numbers import mean
from fastdqn.envs import EnvStream


class Stopped(Exception):
    """An evaluation was stopped because the run was asked to end."""


class Promises(NamedTuple):
    """A policy's value estimates, to be compared with actual returns.

    Attributes:
        expected: Maps (obs [N, *], optional mask [N, A]) to expected discounted returns [N, A].
        gamma: Their discount factor.
    """

    expected: Callable[..., np.ndarray]
    gamma: float


class Evaluation(NamedTuple):
    """Results of E episodes.

    Attributes:
        returns: float64[E], undiscounted.
        lengths: int64[E].
        cut: Number of episodes that reached the step limit.
        predicted: float64[E], value of the best action at the first observation, or None.
        discounted: float64[E], discounted return from there, or None.
        info: float64[E] for each key of --info-keys, NaN for an episode that was cut.
    """

    returns: np.ndarray
    lengths: np.ndarray
    cut: int
    predicted: np.ndarray | None = None
    discounted: np.ndarray | None = None
    info: dict[str, np.ndarray] = MappingProxyType({})  # pyright: ignore[reportAssignmentType]

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
            **{f"mean_{key}": average for key, average in self.info_means().items()},
        }

    def info_means(self) -> dict[str, float]:
        """Returns the mean of each key over the episodes that have it."""
        return {
            key: mean(values[~np.isnan(values)].tolist())
            for key, values in self.info.items()
            if not np.isnan(values).all()
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
    """Runs episodes to their end or to max_steps, in rounds of one episode for each environment.

    A round lasts until its longest episode ends, since counting the first episodes to end would
    favor short ones. An episode that reaches max_steps counts with its return so far.

    Args:
        policy: Maps obs [N, *], and mask [N, A] if there are masks, to int64[N] actions.
        stream: The environments.
        episodes: Number of episodes.
        max_steps: Step limit of an episode.
        seed: Seed of the first environment in the first round.
        stop: Returns whether to stop early.
        promises: Value estimates to compare with the returns, or None.

    Raises:
        Stopped: stop() returned True.
    """
    n = stream.num_lanes
    kept = Evaluation(
        np.zeros(episodes), np.zeros(episodes, np.int64), 0, np.zeros(episodes), np.zeros(episodes)
    )
    cut, infos = 0, []
    for first in range(0, episodes, n):
        of_round = slice(first, min(first + n, episodes))
        parts = [each[of_round] for each in kept if isinstance(each, np.ndarray)]
        info: dict[str, np.ndarray] = {}
        cut += _run_round(policy, stream, max_steps, seed + first, stop, promises, info, *parts)
        infos.append((len(parts[0]), info))
    joined = {
        key: np.concatenate([info.get(key, np.full(n, np.nan))[:count] for count, info in infos])
        for key in dict.fromkeys(key for _, info in infos for key in info)
    }
    if promises is None:
        return Evaluation(kept.returns, kept.lengths, cut, info=joined)
    return kept._replace(cut=cut, info=joined)


def _run_round(
    policy, stream, max_steps, seed, stop, promises, info, returns, lengths, predicted, discounted
) -> int:
    """Runs an episode in each of the first len(returns) environments; returns how many were cut."""
    running = np.zeros(stream.num_lanes, np.bool_)
    running[: len(returns)] = True
    total, worth = np.zeros(stream.num_lanes), np.zeros(stream.num_lanes)
    steps = np.zeros(stream.num_lanes, np.int64)
    cut = 0
    stream.start(seed)
    if promises is not None:
        predicted[:] = promises.expected(*_policy_inputs(stream)).max(1)[: len(returns)]
    while running.any():
        if stop():
            raise Stopped
        stream.send(policy(*_policy_inputs(stream)))
        step = stream.recv()
        reward = step.reward * running[step.lanes]
        total[step.lanes] += reward
        if promises is not None:
            worth[step.lanes] += reward * promises.gamma ** steps[step.lanes]
        steps[step.lanes] += running[step.lanes]
        for key, values in (step.info or {}).items():
            of_key = info.setdefault(key, np.full(stream.num_lanes, np.nan))
            first = running[step.ended_lanes]
            of_key[step.ended_lanes[first]] = values[first]
        running[step.ended_lanes] = False
        over = running & (steps >= max_steps)
        cut += int(over.sum())
        running &= ~over
    for kept, of_lanes in ((returns, total), (lengths, steps), (discounted, worth)):
        kept[:] = of_lanes[: len(kept)]
    return cut


def _policy_inputs(stream: EnvStream) -> tuple[np.ndarray, ...]:
    return (stream.obs,) if stream.mask is None else (stream.obs, stream.mask)
