"""Running statistics of what environments give, for normalisation."""

import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd

from fastdqn.envs.step import Step
from fastdqn.state_dict import State, take_array, take_number

_EPSILON = 1e-8  # as in Gymnasium's NormalizeObservation and NormalizeReward


class ObsStatistics:
    """Mean and deviation of every number of an observation, over all that were delivered."""

    def __init__(self, obs_shape: tuple[int, ...]):
        # No weight on the mean of 0 that it begins with: far numbers would never lose it.
        self._running = RunningMeanStd(epsilon=0.0, shape=obs_shape)

    def follow(self, step: Step) -> None:
        for obs in (step.next_obs, step.start_obs):
            if len(obs):
                self._running.update(obs)

    def state(self) -> State:
        return _state(self._running)

    def load_state(self, state: State) -> None:
        _load_state(self._running, state)

    @property
    def mean(self) -> np.ndarray:
        return self._running.mean

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(self._running.var + _EPSILON)


class ReturnStatistics:
    """Deviation of the discounted return so far, over all lanes and steps, from 0 at each start:
    what Stable-Baselines3's VecNormalize divides rewards by.

    Gymnasium's NormalizeReward keeps other statistics of episode ends: its deviation differs.

    reward_bound  each reward is clipped to it first, as in the replay
    """

    def __init__(self, num_lanes: int, gamma: float, reward_bound: float = np.inf):
        self._running = RunningMeanStd(shape=())
        self._returns, self._gamma, self._bound = np.zeros(num_lanes), gamma, reward_bound

    def follow(self, step: Step) -> None:
        if len(step.lanes):
            reward = np.clip(step.reward, -self._bound, self._bound)
            self._returns[step.lanes] = self._returns[step.lanes] * self._gamma + reward
            self._running.update(self._returns[step.lanes])
            self._returns[step.lanes[step.terminated | step.truncated]] = 0.0
        self._returns[step.start_lanes] = 0.0  # an episode that was open there has no end

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(self._running.var + _EPSILON)

    def state(self) -> State:
        return {"returns": self._returns.copy(), **_state(self._running)}

    def load_state(self, state: State) -> None:
        self._returns[:] = take_array(state, "returns", self._returns)
        _load_state(self._running, state)


def _state(running: RunningMeanStd) -> State:
    return {
        "mean": np.array(running.mean),
        "var": np.array(running.var),
        "count": float(running.count),
    }


def _load_state(running: RunningMeanStd, state: State) -> None:
    running.mean = take_array(state, "mean", np.asarray(running.mean)).copy()
    running.var = take_array(state, "var", np.asarray(running.var)).copy()
    running.count = take_number(state, "count")
