"""RangeWatch: says when returns leave the range that the values of a network can tell."""

from collections.abc import Callable

import numpy as np

from fastdqn.acting import Step
from fastdqn.plain import State, take_array, take_number, take_truth


class RangeWatch:
    """Follows the discounted return of each episode from its start; says once what lies outside.

    num_lanes, gamma  as in the replay
    v_min, v_max      ends of the range, in the scale that the learner sees
    scale  gives the factor from true rewards to those the learner sees
    say    takes the line, at most once in a run
    """

    def __init__(
        self,
        num_lanes: int,
        gamma: float,
        v_min: float,
        v_max: float,
        scale: Callable[[], float],
        say: Callable[[str], None],
    ):
        self._gamma, self._range, self._scale, self._say = gamma, (v_min, v_max), scale, say
        self._returns, self._discounts = np.zeros(num_lanes), np.ones(num_lanes)
        self._lowest, self._highest, self._has_said = 0.0, 0.0, False

    def follow(self, step: Step) -> None:
        lanes = step.lanes
        if len(lanes):
            self._returns[lanes] += self._discounts[lanes] * step.reward
            self._discounts[lanes] *= self._gamma
        if len(step.ended_lanes):
            ended = self._returns[step.ended_lanes] * self._scale()
            self._lowest = min(self._lowest, float(ended.min()))
            self._highest = max(self._highest, float(ended.max()))
            self._look()
        for over in (step.ended_lanes, step.start_lanes):
            self._returns[over], self._discounts[over] = 0.0, 1.0

    def _look(self) -> None:
        v_min, v_max = self._range
        if self._has_said or (v_min <= self._lowest and self._highest <= v_max):
            return
        self._has_said = True
        self._say(
            f"discounted returns of episodes went from {self._lowest:.4g} to {self._highest:.4g}, "
            f"and categorical values tell {v_min:g} to {v_max:g} apart: set --v-min and --v-max "
            "around them"
        )

    def state(self) -> State:
        return {
            "returns": self._returns.copy(), "discounts": self._discounts.copy(),
            "lowest": self._lowest, "highest": self._highest, "has_said": self._has_said,
        }  # fmt: skip

    def load_state(self, state: State) -> None:
        self._returns[:] = take_array(state, "returns", self._returns)
        self._discounts[:] = take_array(state, "discounts", self._discounts)
        self._lowest, self._highest = take_number(state, "lowest"), take_number(state, "highest")
        self._has_said = take_truth(state, "has_said")
