"""OfflineStream: takes the place of an EnvStream in a run without training environments."""

from typing import Any

import numpy as np

from fastdqn.envs.env_calls import EnvCalls
from fastdqn.envs.env_facts import EnvFacts
from fastdqn.envs.step import Step
from fastdqn.state_dict import State


class _NoCalls:
    """Stands for EnvCalls: no environment fails."""

    def __init__(self):
        self.lost: list[Exception] = []


class OfflineStream:
    """A stream of num_lanes sub-environments that never step.

    Attributes:
        lanes, obs, mask, warnings, num_lanes, num_ready, facts, env_calls: As of an EnvStream.
            Observations are zeros, and masks allow every action.
    """

    def __init__(self, facts: EnvFacts, num_lanes: int):
        self.facts, self.num_lanes, self.num_ready = facts, num_lanes, num_lanes
        self.lanes = np.arange(num_lanes)
        self.obs = np.zeros((num_lanes, *facts.obs_shape), facts.obs_dtype)
        self.mask = np.ones((num_lanes, facts.num_actions), np.bool_) if facts.has_masks else None
        self.warnings: list[str] = []
        self.env_calls: EnvCalls | Any = _NoCalls()

    def start(self, seed: int | None = None) -> Step:
        """Returns a step without transitions and without episode starts."""
        nobody, flags = np.empty(0, np.int64), np.empty(0, np.bool_)
        mask = None if self.mask is None else self.mask[:0]
        return Step(
            nobody, nobody, np.empty(0), flags, flags, self.obs[:0], nobody, self.obs[:0],
            nobody, np.empty(0), nobody, mask, mask,
        )  # fmt: skip

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> bool:
        """Returns True: there is nothing to restore."""
        return True
