"""Normalizer: hands statistics of the environments on to those who normalise by them."""

from collections.abc import Sequence

from fastdqn.envs import ObsStatistics, ReturnStatistics, Step
from fastdqn.learning.batch_staging import assign
from fastdqn.learning.networks import Statistics
from fastdqn.replay import Replay
from fastdqn.state_dict import State, take_state


class Normalizer:
    """The replay keeps observations and rewards as they came; the network and the sampled batch
    apply today's statistics, so nothing in the replay has the scale of an earlier day.

    statistics  those of the online network, shared with what acts and saved with the weights,
                and of the target network: both see an observation in the same way
    obs, returns  what to follow; None: not normalised
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
        return {name: each.state() for name, each in self._followed().items()}

    def load_state(self, state: State) -> None:
        """Go on from a state; the network's statistics and the replay's scale have their own."""
        for name, each in self._followed().items():
            each.load_state(take_state(state, name))

    def _followed(self) -> dict[str, ObsStatistics | ReturnStatistics]:
        named = {"obs": self._obs, "returns": self._returns}
        return {name: each for name, each in named.items() if each is not None}

    def follow(self, step: Step) -> None:
        """Take a delivery into the statistics."""
        if self._obs is not None:
            self._obs.follow(step)
            for statistics in self._statistics:
                assign(statistics.obs_mean, self._obs.mean)
                assign(statistics.obs_deviation, self._obs.deviation)
        if self._returns is not None:
            self._returns.follow(step)
            deviation = self._returns.deviation
            for statistics in self._statistics:
                assign(statistics.return_deviation, deviation)
            self._replay.reward_scale = 1.0 / float(deviation)
