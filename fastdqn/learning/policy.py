"""Policy: selects greedy and exploratory actions from observations."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fastdqn.exploration import Repeats, explore, prepare
from fastdqn.kernels.rng import seed_state
from fastdqn.learning.random_inputs import MEANS, Draw, LaneNoise, NoNoise
from fastdqn.learning.value import Value
from fastdqn.part_error import PartError
from fastdqn.state_dict import State, take_generator, take_state


class Policy:
    """Epsilon-greedy policy over the expected returns of a network.

    Args:
        network: The network in eval mode; shares memory with the learner's weights, so it is never
            outdated.
        value: The meaning of its output.
        device: Its device.
        obs_shape: Shape of one stored observation.
        num_actions: A.
        seed: Seed of exploration.
        noise: Random inputs of act(), for exploration by noisy layers; greedy actions have none.
        choose: A faster form of the network for greedy actions: (obs, mask, Draw) to actions, or
            to None if it does not apply. If act() has slots, they are its fourth argument.
        repeats: Repeats exploratory actions; None takes each once.
        observations: Gathers observations that a replay has on the device, from int64[N] slots.
    """

    def __init__(
        self,
        network: nn.Module,
        value: Value,
        device: torch.device,
        obs_shape: tuple[int, ...],
        num_actions: int,
        seed: int = 0,
        noise: LaneNoise | NoNoise | None = None,
        choose: Callable[..., np.ndarray | None] | None = None,
        repeats: Repeats | None = None,
        observations: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.network, self.value, self.device = network, value, device
        self._noise, self._choose, self.repeats = noise or NoNoise(), choose, repeats
        self.obs_shape, self.num_actions = obs_shape, num_actions
        self._observations = observations
        self.rng = seed_state(seed)
        prepare(self.rng)

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Returns int64[N] greedy actions, counted from 0.

        Args:
            obs: [N, *], as stored.
            mask: [N, A], nonzero for allowed actions, at least one in each row.

        Raises:
            ValueError: obs is not a batch of observations.
        """
        self._require_batch(obs)
        return self._best(obs, mask, MEANS)

    def prepare(self, obs: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Warm-up: calls __call__() and act() once and restores the random state."""
        given = np.array(obs)
        self(obs, mask)
        if not np.array_equal(given, obs):
            raise PartError(
                "the network modifies the observations that it receives: a torso must not change "
                "its input in place"
            )
        before = self.state()
        slots = None if self._observations is None else np.zeros(len(obs), np.int64)
        self._best(obs, mask, self._noise(len(obs)), slots)
        self.load_state(before)

    def expected(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Returns float32[N, A], the expected returns, -inf where mask [N, A] forbids an action.

        Raises:
            ValueError: obs is not a batch of observations.
        """
        self._require_batch(obs)
        return self._values(obs, mask, MEANS).cpu().numpy()

    def _require_batch(self, obs: np.ndarray) -> None:
        if np.shape(obs)[1:] != self.obs_shape or np.ndim(obs) == 0:
            raise ValueError(
                f"observations have shape {np.shape(obs)}, must be {('N', *self.obs_shape)}. "
                "Use obs[None] for a batch of one, and ObsReader(space) for spaces other than Box"
            )

    def _best(
        self,
        obs: np.ndarray,
        mask: np.ndarray | None,
        draw: Draw,
        slots: np.ndarray | None = None,
    ) -> np.ndarray:
        if self._choose is not None and len(obs):
            stored = () if slots is None else (slots,)
            chosen = self._choose(obs, mask, draw, *stored)
            if chosen is not None:
                return chosen
        return self._values(obs, mask, draw, slots).argmax(1).cpu().numpy()

    def _values(
        self,
        obs: np.ndarray,
        mask: np.ndarray | None,
        draw: Draw,
        slots: np.ndarray | None = None,
    ) -> torch.Tensor:
        if not len(obs):  # user networks may not accept an empty batch
            return torch.zeros((0, self.num_actions), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            if slots is None or self._observations is None:
                there = self._upload(obs)
            else:
                there = self._observations(self._upload(slots))
            values = self.value.expected(self.network(there, draw))
            if values.shape != (len(obs), self.num_actions):
                raise PartError(
                    f"{type(self.value).__name__}.expected() returns {list(values.shape)}, must "
                    f"return {[len(obs), self.num_actions]}, one value for each action"
                )
            if mask is not None:
                allowed = self._upload(np.asarray(mask, np.bool_))
                values = values.masked_fill(~allowed, -torch.inf)
            return values

    def act(
        self,
        obs: np.ndarray,
        epsilon,
        mask: np.ndarray | None = None,
        lanes: np.ndarray | None = None,
        slots: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns int64[N] actions, each random with its own probability.

        Args:
            obs: [N, *], as stored.
            epsilon: In [0, 1], one number or [N].
            mask: bool[N, A], the allowed actions.
            lanes: int64[N], the sub-environment of each observation; None for all, in order.
            slots: int64[N], where a replay on the device has the same observations, which are then
                not uploaded again; None uploads them.
        """
        action = self._best(obs, mask, self._noise(len(obs)), slots)
        self._explore(epsilon, mask, lanes, action)
        return action

    def _explore(
        self, epsilon, mask: np.ndarray | None, lanes: np.ndarray | None, action: np.ndarray
    ) -> None:
        """Replaces some of the greedy actions, int64[N], by exploratory ones."""
        if self.repeats is None:
            explore(self.rng, epsilon, self.num_actions, mask, action)
        else:
            random = np.full(len(action), -1)
            explore(self.rng, epsilon, self.num_actions, mask, random)
            whose = np.arange(len(action)) if lanes is None else lanes
            self.repeats(self.rng, random, mask, whose, action)

    def state(self) -> State:
        return {"rng": self.rng.copy(), "noise": self._noise.state()}

    def load_state(self, state: State) -> None:
        self.rng[:] = take_generator(state, "rng", self.rng)
        self._noise.load_state(take_state(state, "noise"))

    def _upload(self, array: np.ndarray) -> torch.Tensor:
        # torch rejects read-only arrays and negative strides.
        return torch.from_numpy(np.require(array, requirements=("C", "W"))).to(self.device)
