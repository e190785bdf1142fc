"""Schedules: budget, update cadence, epsilon and learning rate by steps and episodes."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fastdqn.part_error import PartError


def ticks(before: int, now: int, per: int | Fraction) -> int:
    """Returns how often an event every `per` steps occurs in the interval (before, now].

    Exact for any stride: the counts of consecutive intervals add up to that of the whole.
    """
    return int(now // per - before // per)


@dataclass(frozen=True)
class Budget:
    """Length of a run: total_steps or total_episodes, whichever comes first."""

    total_steps: int | None
    total_episodes: int | None

    def __post_init__(self):
        if self.total_steps is None and self.total_episodes is None:
            raise ValueError("a budget needs total_steps or total_episodes")

    def spent(self, steps: int, episodes: int) -> bool:
        return (self.total_steps is not None and steps >= self.total_steps) or (
            self.total_episodes is not None and episodes >= self.total_episodes
        )

    def counted(self, steps: int) -> int:
        """Returns the steps that count towards updates, without those over the budget."""
        return steps if self.total_steps is None else min(steps, self.total_steps)

    def fraction(self, steps: int, episodes: int) -> float:
        """Returns the spent fraction of the budget, in [0, 1]."""
        shares = [
            spent / total
            for spent, total in ((steps, self.total_steps), (episodes, self.total_episodes))
            if total is not None
        ]
        return min(1.0, max(shares))


@dataclass(frozen=True)
class Linear:
    """Linear schedule from initial to final over the first over_steps steps, then constant."""

    initial: float
    final: float
    over_steps: int

    def __call__(self, steps: int, episodes: int = 0) -> float:
        if steps >= self.over_steps:
            return self.final
        return self.initial + (self.final - self.initial) * (steps / self.over_steps)


@dataclass(frozen=True)
class EpisodicEpsilon:
    """Epsilon that is multiplied by decay after each episode, with a minimum of final."""

    initial: float
    final: float
    decay: float

    def __call__(self, steps: int, episodes: int) -> float:
        return max(self.final, self.initial * self.decay**episodes)


class LadderEpsilon:
    """A constant epsilon for each environment, from ladder_epsilon down to its (1 + alpha)th power.

    Returns float64[N]. A single environment uses epsilon. Horgan et al. 2018 (arXiv 1803.00933),
    section 4.1.
    """

    def __init__(self, ladder_epsilon: float, ladder_alpha: float, num_envs: int):
        exponents = 1.0 + ladder_alpha * np.arange(num_envs) / max(num_envs - 1, 1)
        self._per_lane = ladder_epsilon**exponents

    def __call__(self, steps: int, episodes: int) -> np.ndarray:
        return self._per_lane


def decaying_epsilon(
    exploration_initial_eps: float,
    exploration_final_eps: float,
    exploration_fraction: float,
    exploration_decay: float | None,
    total_timesteps: int | None,
) -> Linear | EpisodicEpsilon:
    """Returns an epsilon that decays per episode if exploration_decay is set, else linearly."""
    first, last = exploration_initial_eps, exploration_final_eps
    if exploration_decay is not None:
        return EpisodicEpsilon(first, last, exploration_decay)
    # Validation ensures that epsilon is constant without a total of steps.
    return Linear(first, last, round(exploration_fraction * (total_timesteps or 0)))


def linear_rate(learning_rate: float, final_learning_rate: float, total_timesteps: int) -> Linear:
    """Returns a learning rate that is linear over the run."""
    return Linear(learning_rate, final_learning_rate, total_timesteps)


@dataclass(frozen=True)
class Constant:
    """A constant learning rate."""

    learning_rate: float

    def __call__(self, steps: int, episodes: int = 0) -> float:
        return self.learning_rate


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from learning_rate to final_learning_rate over the run, then constant.

    Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5, without restarts.
    """

    learning_rate: float
    final_learning_rate: float
    total_timesteps: int

    def __call__(self, steps: int, episodes: int = 0) -> float:
        if steps >= self.total_timesteps:
            return self.final_learning_rate
        share = 0.5 * (1.0 + math.cos(math.pi * steps / self.total_timesteps))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * share


class Piecewise:
    """Linear between points, from learning_rate at step 0; constant after the last point.

    Args:
        learning_rate: The rate at step 0.
        learning_rate_steps: Steps of the points, ascending, from 1.
        learning_rate_values: The rate at each of them.

    Raises:
        ValueError: The numbers of steps and values differ, or the steps do not ascend.
    """

    def __init__(
        self,
        learning_rate: float,
        learning_rate_steps: Sequence[int],
        learning_rate_values: Sequence[float],
    ):
        self._steps = (0, *learning_rate_steps)
        self._values = (learning_rate, *learning_rate_values)
        if len(self._steps) != len(self._values):
            raise ValueError(
                f"learning_rate_steps has {len(learning_rate_steps)} entries and "
                f"learning_rate_values {len(learning_rate_values)}, must have one value for each "
                "step"
            )
        for before, after in itertools.pairwise(self._steps):
            if after <= before:
                raise ValueError(
                    f"learning_rate_steps has {after} after {before}, must ascend from 1"
                )

    def __call__(self, steps: int, episodes: int = 0) -> float:
        after = bisect.bisect_right(self._steps, steps)
        if after == len(self._steps):
            return self._values[-1]
        start, end = self._steps[after - 1 : after + 1]
        initial, final = self._values[after - 1 : after + 1]
        return initial + (final - initial) * ((steps - start) / (end - start))


class CheckedEpsilon:
    """Validates what another exploration schedule returns, and converts it.

    Args:
        schedule: The schedule, of the user's own.
        num_envs: N, the number of environments.
    """

    def __init__(self, schedule: Callable[[int, int], Any], num_envs: int):
        self._schedule, self._num_envs = schedule, num_envs

    def __call__(self, steps: int, episodes: int) -> float | np.ndarray:
        """Returns epsilon in [0, 1]: a number, or float64[N]. Raises PartError."""
        epsilon = self._schedule(steps, episodes)
        if type(epsilon) is float and 0.0 <= epsilon <= 1.0:  # the fast path
            return epsilon
        array = _numbers(epsilon, 1.0)
        if array is None or array.shape not in ((), (self._num_envs,)):
            raise PartError(
                f"exploration returns {_short(epsilon)} at step {steps}: it must return a number "
                f"in [0, 1], or an array with one for each of {self._num_envs} environments"
            )
        return array if array.ndim else float(array)


class CheckedRate:
    """Validates what another schedule of the learning rate returns, and makes it a float.

    Args:
        schedule: The schedule, of the user's own.
    """

    def __init__(self, schedule: Callable[[int, int], Any]):
        self._schedule = schedule

    def __call__(self, steps: int, episodes: int) -> float:
        """Returns the learning rate. Raises PartError."""
        rate = self._schedule(steps, episodes)
        array = _numbers(rate, 1e30)  # float32 on the device
        if array is None or array.ndim:
            raise PartError(
                f"learning_rate_schedule returns {_short(rate)} at step {steps}: it must return a "
                "number of at least 0, at most 1e30"
            )
        return float(array)


def _numbers(given: Any, most: float) -> np.ndarray | None:
    """Returns a number or array as float64, or None if it is not of finite numbers in [0, most]."""
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "iuf":
            return None
    except Exception:  # a ragged list, or a tensor that requires a gradient or is on a device
        return None
    array = array.astype(np.float64)
    if not (np.isfinite(array) & (array >= 0.0) & (array <= most)).all():
        return None
    return array


def _short(given: Any) -> str:
    """Returns a value as one line of at most 60 characters."""
    return " ".join(str(given).split())[:60]
