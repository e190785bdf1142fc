"""Normalizer: keeps normalization statistics up to date in the networks and the replay."""

from collections.abc import Sequence

import numpy as np

from fastdqn.envs import ObsStatistics, ReturnStatistics, Step
from fastdqn.learning.batch_staging import assign
from fastdqn.learning.networks import Statistics
from fastdqn.replay import Replay
from fastdqn.state_dict import State, take_state


class Normalizer:
    """Updates the statistics of observations and returns.

    The replay stores observations and rewards as they are. The network and the sampled batch apply
    the current statistics, so no transition is scaled by outdated ones.

    Args:
        statistics: Those of the online network, shared with the policy and saved with the weights,
            and those of the target network.
        replay: Its reward_scale is set.
        obs: Statistics of observations; None does not normalize them.
        returns: Statistics of returns; None does not normalize rewards.
    """

    def __init__(
        self,
        statistics: Sequence[Statistics],
        replay: Replay,
        obs: ObsStatistics | None,
        returns: ReturnStatistics | None,
    ):
        self._statistics, self._replay = statistics, replay
        self._obs, self._returns = obs, returns

    def state(self) -> State:
        return {name: each.state() for name, each in self._enabled().items()}

    def load_state(self, state: State) -> None:
        """Loads a state dict; networks and replay load their own scales."""
        for name, each in self._enabled().items():
            each.load_state(take_state(state, name))

    def adopt(self, state: State) -> None:
        """Loads the statistics of another run, whose open episodes do not count."""
        for name, each in self._enabled().items():
            each.adopt(take_state(state, name))
        self._assign()

    def keep(self, count: float) -> None:
        """Takes the statistics of the online network as those of `count` numbers.

        A weights file has no counts, and new statistics would scale its inputs otherwise.
        """
        stored, named = self._statistics[0], {}
        if self._obs is not None:
            mean, deviation = _float64(stored.obs_mean), _float64(stored.obs_deviation)
            named["obs"] = {"mean": mean, "var": deviation**2, "count": count}
        if self._returns is not None:
            deviation = _float64(stored.return_deviation[0])
            named["returns"] = {"mean": np.zeros(()), "var": deviation**2, "count": count}
        self.adopt(named)

    def _enabled(self) -> dict[str, ObsStatistics | ReturnStatistics]:
        named = {"obs": self._obs, "returns": self._returns}
        return {name: each for name, each in named.items() if each is not None}

    def follow(self, step: Step) -> None:
        """Updates the statistics with a step."""
        for each in self._enabled().values():
            each.follow(step)
        self._assign()

    def _assign(self) -> None:
        """Copies the statistics to the networks and the replay."""
        if self._obs is not None:
            for statistics in self._statistics:
                assign(statistics.obs_mean, self._obs.mean)
                assign(statistics.obs_deviation, self._obs.deviation)
        if self._returns is not None:
            deviation = self._returns.deviation
            for statistics in self._statistics:
                assign(statistics.return_deviation, deviation)
            self._replay.reward_scale = 1.0 / float(deviation)


def _float64(tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy(), np.float64)
