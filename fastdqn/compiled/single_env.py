"""CompiledEnv: one environment of a definition, for gymnasium.make()."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.vector_env import CompiledVectorEnv


class CompiledEnv(gymnasium.Env):
    """One environment, without a time limit: gymnasium.make() adds it.

    Args:
        definition: The environment.
        render_mode: rgb_array, or None.
        compiled: Whether to compile its functions.
    """

    def __init__(
        self, definition: EnvDefinition, render_mode: str | None = None, compiled: bool = True
    ):
        self._vector = CompiledVectorEnv(
            replace(definition, max_episode_steps=None), 1, render_mode=render_mode,
            autoreset_mode=AutoresetMode.DISABLED, compiled=compiled,
        )  # fmt: skip
        self.metadata = {
            name: self._vector.metadata[name] for name in ("render_modes", "render_fps")
        }
        self.render_mode = render_mode
        self.observation_space = definition.observation_space
        self.action_space = definition.action_space

    @property
    def np_random(self) -> np.random.Generator:
        """Returns a copy of the environment's generator, in its present state."""
        return self._vector.np_random[0]

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._vector.set_generator(0, value)
        self._np_random_seed = -1  # unknown, in Gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; returns its first observation and info."""
        obs, infos = self._vector.reset(seed=None if seed is None else [seed], options=options)
        self._np_random, self._np_random_seed = self.np_random, self._vector.np_random_seed[0]
        return self._one(obs), self._info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Returns observation, reward, terminated, truncated (always False) and info."""
        obs, reward, terminated, _, infos = self._vector.step(np.asarray(action)[None])
        return self._one(obs), float(reward[0]), bool(terminated[0]), False, self._info(infos)

    def get_state(self) -> dict[str, Any]:
        """Returns everything that decides what follows, as copies."""
        return self._vector.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Loads a get_state() of the same definition; raises ValueError if it does not fit."""
        self._vector.set_state(state)

    def render(self) -> np.ndarray | None:
        """Returns a picture, uint8[H, W, 3], or None without a render_mode."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self._vector.close()

    def _one(self, obs: np.ndarray) -> Any:
        if isinstance(self.observation_space, gymnasium.spaces.Discrete):
            return np.int64(obs[0])
        return obs[0]

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {"action_mask": infos["action_mask"][0]} if infos else {}
