"""ObsStatistics and ReturnStatistics: running mean and variance for normalization."""

import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd

from fastdqn.envs.step import Step
from fastdqn.state_dict import State, take_array, take_number

_EPSILON = 1e-8  # as in Gymnasium's NormalizeObservation and NormalizeReward


class ObsStatistics:
    """Mean and standard deviation of each observation entry over all observations."""

    def __init__(self, obs_shape: tuple[int, ...]):
        # The initial mean of 0 has no weight: means far from 0 would keep a trace of it.
        self._running = RunningMeanStd(epsilon=0.0, shape=obs_shape)

    def follow(self, step: Step) -> None:
        for obs in (step.next_obs, step.start_obs):
            if len(obs):
                self._running.update(obs)

    def state(self) -> State:
        return _state(self._running)

    def load_state(self, state: State) -> None:
        _load_state(self._running, state)

    def adopt(self, state: State) -> None:
        """Loads the statistics of another run."""
        _load_state(self._running, state)

    @property
    def mean(self) -> np.ndarray:
        return self._running.mean

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(self._running.var + _EPSILON)


class ReturnStatistics:
    """Standard deviation of the running discounted return over all sub-environments and steps.

    The return starts at 0 in each episode, as in Stable-Baselines3's VecNormalize. Gymnasium's
    NormalizeReward treats episode ends differently, so its deviation differs.

    Args:
        num_lanes: Number of sub-environments.
        gamma: Discount factor.
        reward_bound: Rewards are clipped to +-reward_bound first, as in the replay.
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
        self._returns[step.start_lanes] = 0.0  # a start may also follow an episode without an end

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(self._running.var + _EPSILON)

    def state(self) -> State:
        return {"returns": self._returns.copy(), **_state(self._running)}

    def adopt(self, state: State) -> None:
        """Loads the statistics of another run, without its running returns."""
        _load_state(self._running, state)

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
