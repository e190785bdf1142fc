"""EnvRows: the arrays of N environments, and their state as plain values."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.generator import WORDS, LiveGenerator, seeded_words

_NO_LIMIT = np.iinfo(np.int64).max


class EnvRows:
    """What the kernel reads and writes, one row for each environment.

    Attributes:
        states: The state records [N].
        records: The same memory, with fields as attributes: a view for Python.
        generators: The states of their generators, uint64[N, 5].
        elapsed: Steps of the present episodes, int64[N].
        ended: Which episodes have ended, bool[N].
        action: Actions of the next step.
        obs, reward, terminated, truncated, mask: Results of the last call.
        last_obs, last_mask: Those before a reset in the same step, where ended.
        seeds: The seeds of the generators, -1 where unknown.
        started: Whether all have been reset.
    """

    def __init__(self, definition: EnvDefinition, num_envs: int, limit: int | None):
        n, space, action = num_envs, definition.observation_space, definition.action_space
        self.states = np.zeros(n, definition.state)
        self.records: Any = self.states.view(np.recarray)
        self.generators, self.seeds = np.zeros((n, WORDS), np.uint64), [-1] * n
        self._seeded = np.zeros(n, np.bool_)
        self.elapsed, self.ended = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        self.started = False
        shape = space.shape or ()
        self._obs, self._last_obs = np.zeros((2, n, *(shape or (1,))), space.dtype)
        self.obs, self.last_obs = (each.reshape(n, *shape) for each in (self._obs, self._last_obs))
        self.reward = np.zeros(n)
        self.terminated, self.truncated = np.zeros((2, n), np.bool_)
        self.action = np.zeros((n, *(action.shape or ())), action.dtype)
        lowest, highest = _range(action)
        width = highest - lowest + 1 if definition.mask is not None else 0
        self.mask, self.last_mask = np.zeros((2, n, width), np.int8)
        self._limits = np.array([_NO_LIMIT if limit is None else limit, lowest, highest])

    def arguments(
        self, live: LiveGenerator, current: np.ndarray, params: Any, compiled: bool
    ) -> tuple:
        """Returns the arguments of the kernel behind mode and ended.

        Args:
            live: The generator of the thread.
            current: Where the kernel notes the environment it works on, int64[1].
            params: The definition's.
            compiled: Whether the kernel is compiled, which reads plain records faster.
        """
        return (
            self.action, self.states if compiled else self.records,
            (self.generators, live.words, live.spare, live.addresses),
            (self.elapsed, self._limits, current),
            (
                self._obs, self.reward, self.terminated, self.truncated, self.mask,
                self._last_obs, self.last_mask,
            ),
            params,
        )  # fmt: skip

    def seed(
        self,
        seed: int | Sequence[int | None] | None,
        chosen: np.ndarray,
        live: LiveGenerator,
    ) -> None:
        """Seeds the chosen generators; without a seed, those that never had one.

        Raises:
            ValueError: The number of seeds is not N, or one is negative.
        """
        n = len(self.seeds)
        if seed is None:
            seeds: list[int | None] = [None] * n
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(n)]
        else:
            seeds = list(seed) if isinstance(seed, Sequence | np.ndarray) else [seed]
        if len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} environments")
        for each in seeds:
            if each is not None and (not isinstance(each, int | np.integer) or each < 0):
                raise ValueError(f"seed is {each!r}, must be None or a whole number of at least 0")
        given = np.array([each is not None for each in seeds])
        for i in np.flatnonzero(chosen & (given | ~self._seeded)):
            self.generators[i] = seeded_words(seeds[i], live)
            self._seeded[i], self.seeds[i] = True, -1 if (known := seeds[i]) is None else known

    def set_generator(self, i: int, words: np.ndarray) -> None:
        """Loads the state of a generator, uint64[5]."""
        self.generators[i], self._seeded[i], self.seeds[i] = words, True, -1

    def read(self) -> dict[str, Any]:
        """Returns what decides the following steps, as copies."""
        return {name: each.copy() for name, each in self._parts().items()}

    def write(self, given: dict[str, Any]) -> None:
        """Loads what read() returned; raises ValueError if it does not fit, and changes nothing."""
        own = self._parts()
        if not isinstance(given, dict) or given.keys() != own.keys():
            raise ValueError(f"the state must have the parts {', '.join(sorted(own))}")
        for name, array in own.items():
            other = np.asarray(given[name])
            if (other.shape, other.dtype) != (array.shape, array.dtype):
                raise ValueError(
                    f"{name} is {other.dtype} of shape {other.shape}, must be {array.dtype} of "
                    f"shape {array.shape}"
                )
        if (np.asarray(given["elapsed"]) < 0).any():
            raise ValueError("elapsed is negative")
        if not (np.asarray(given["generators"])[:, 2] & np.uint64(1)).all():
            raise ValueError("generators: the increment of PCG64 is even")  # would draw 0 forever
        for name, array in own.items():
            array[...] = given[name]
        self._seeded[:], self.seeds, self.started = True, [-1] * len(self.seeds), True

    def _parts(self) -> dict[str, np.ndarray]:
        states: Any = self.states
        fields = {f"state.{name}": states[name] for name in states.dtype.names}
        return {
            **fields, "generators": self.generators, "elapsed": self.elapsed, "ended": self.ended,
        }  # fmt: skip


def _range(space: gymnasium.Space) -> tuple[int, int]:
    """Returns the lowest and highest action of a Discrete space, or a range of none."""
    if not isinstance(space, spaces.Discrete):
        return 0, -1
    return int(space.start), int(space.start + space.n) - 1
