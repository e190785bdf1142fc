"""RangeWatch: warns if returns leave the range of categorical values."""

from collections.abc import Callable

import numpy as np

from fastdqn.envs import Step
from fastdqn.state_dict import State, take_array, take_count, take_number, take_truth


class RangeWatch:
    """Tracks discounted returns of each environment and warns once if they leave the range.

    It computes two sums for each episode without storing rewards. One is the return from the start.
    The other is R = r + gamma R, from step to step, which is at least as large as a late reward,
    however many steps without reward came before it.

    Args:
        num_lanes: Number of environments.
        gamma: Discount factor.
        v_min: Lower end of the range, in the scale of the learner.
        v_max: Upper end of the range.
        scale: Returns the factor from true rewards to those of the learner.
        say: Receives the warning, at most once in a run.
        reward_bound: Rewards are clipped to +-reward_bound for the learner.
    """

    def __init__(
        self,
        num_lanes: int,
        gamma: float,
        v_min: float,
        v_max: float,
        scale: Callable[[], float],
        say: Callable[[str], None],
        reward_bound: float = np.inf,
    ):
        self._gamma, self._range, self._scale, self._say = gamma, (v_min, v_max), scale, say
        self._bound = reward_bound
        self._returns, self._discounts = np.zeros(num_lanes), np.ones(num_lanes)
        self._running = np.zeros(num_lanes)
        self._lowest, self._highest, self._episodes, self._has_said = 0.0, 0.0, 0, False

    def follow(self, step: Step) -> None:
        lanes, reward = step.lanes, np.clip(step.reward, -self._bound, self._bound)
        if len(lanes):
            self._returns[lanes] += self._discounts[lanes] * reward
            self._discounts[lanes] *= self._gamma
            self._running[lanes] = self._gamma * self._running[lanes] + reward
        ended = lanes[step.terminated | step.truncated]
        if len(ended):
            # Only at the end: before it, both sums lack the rewards that are still to come.
            self._take(np.concatenate((self._returns[ended], self._running[ended])))
        for over in (ended, step.start_lanes):
            self._returns[over], self._discounts[over], self._running[over] = 0.0, 1.0, 0.0

    def _take(self, sums: np.ndarray) -> None:
        sums = sums * self._scale()
        lowest, highest = float(sums.min()), float(sums.max())
        first = self._episodes == 0
        self._lowest = lowest if first else min(self._lowest, lowest)
        self._highest = highest if first else max(self._highest, highest)
        self._episodes += len(sums) // 2
        self._check()

    def _check(self) -> None:
        v_min, v_max = self._range
        if self._has_said or (v_min <= self._lowest and self._highest <= v_max):
            return
        self._has_said = True
        self._say(
            f"discounted returns range from {self._lowest:.4g} to {self._highest:.4g}, but "
            f"categorical values cover {v_min:g} to {v_max:g} only: set --v-min and --v-max to "
            "include them"
        )

    def state(self) -> State:
        return {
            "returns": self._returns.copy(), "discounts": self._discounts.copy(),
            "running": self._running.copy(), "episodes": self._episodes,
            "lowest": self._lowest, "highest": self._highest, "has_said": self._has_said,
        }  # fmt: skip

    def load_state(self, state: State) -> None:
        self._returns[:] = take_array(state, "returns", self._returns)
        self._discounts[:] = take_array(state, "discounts", self._discounts)
        self._running[:] = take_array(state, "running", self._running)
        self._episodes = take_count(state, "episodes")
        self._lowest, self._highest = take_number(state, "lowest"), take_number(state, "highest")
        self._has_said = take_truth(state, "has_said")
