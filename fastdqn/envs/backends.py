"""Back ends: how calls reach a vector environment, and which lanes answer first."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.envs.backend_interface import Arrival, Backend
from fastdqn.envs.errors import LaneFailure
from fastdqn.envs.sub_env import close_quietly
from fastdqn.envs.workers import Workers


def connect(envs: VectorEnv, env_batch_size: int | None = None, restarts: int = 0) -> Backend:
    """The back end for a vector environment.

    env_batch_size  lanes to wait for; None: all, or what envs were made with
    restarts  lanes in processes of their own that may be replaced when they fail, in all
    Raises ValueError where envs cannot answer for some lanes first, or restart them.
    """
    if isinstance(envs, AsyncVectorEnv):
        return Workers(envs, env_batch_size or envs.num_envs, restarts)
    if restarts:
        raise ValueError(
            f"restart_envs is {restarts}, but these environments have no processes of their own: "
            "--vectorization async"
        )
    backend = Native(envs) if hasattr(type(envs), "recv") else Calls(envs)
    if env_batch_size not in (None, backend.num_ready):
        raise ValueError(
            f"env_batch_size is {env_batch_size}, but these environments answer for "
            f"{backend.num_ready} at a time: --vectorization async and envpool take any number"
        )
    return backend


def answers_for(envs: VectorEnv) -> int:
    """Lanes that environments of anyone's making answer for at a time."""
    return connect(envs).num_ready


class _InProcess:
    """What back ends have in common whose lanes are in this process: none can be replaced."""

    def __init__(self):
        self.lost: list[LaneFailure] = []

    def unanswered(self) -> None:
        return None

    def give_up(self, lane: int, question: int, why: str) -> None:
        raise NotImplementedError("only the thread that waits can end a call")


class Calls(_InProcess):
    """Any VectorEnv by its reset() and step(): all lanes answer together."""

    def __init__(self, envs: VectorEnv):
        super().__init__()
        self._envs = envs
        self.num_ready = envs.num_envs
        self._lanes = np.arange(envs.num_envs)
        self._action = np.zeros(0)

    def reset(self, seed: int | None) -> Arrival:
        return _first(self._lanes, *self._envs.reset(seed=seed))

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        self._action = action

    def recv(self) -> Arrival:
        return Arrival(self._lanes, *self._envs.step(self._action))

    def restart(self, lanes: np.ndarray) -> Arrival:
        # Gymnasium pops the mask from the dict and may keep it: both are made anew.
        mask = np.zeros(self.num_ready, np.bool_)
        mask[lanes] = True
        return _first(self._lanes, *self._envs.reset(options={"reset_mask": mask}))

    def settle(self) -> None:
        """Nothing is ever under way between two calls."""

    def close(self) -> None:
        close_quietly(self._envs)


# Lanes whose answers are still to come, of environments that outlive a back end over them.
_UNDER_WAY: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class Native(_InProcess):
    """Environments in threads of C++, with send() and recv() of their own: EnvPool and ale-py."""

    def __init__(self, envs: Any):
        super().__init__()
        self._envs = envs
        config = getattr(envs, "config", {})
        self.num_ready = int(getattr(envs, "batch_size", config.get("batch_size", envs.num_envs)))
        self._is_envpool = hasattr(envs, "async_reset")

    def reset(self, seed: int | None) -> Arrival:
        if under_way := _UNDER_WAY.get(self._envs):
            raise ValueError(
                f"{under_way} lanes are still under way: environments that answer for some lanes "
                "first can be started only once; make new ones"
            )
        _UNDER_WAY[self._envs] = self._envs.num_envs
        if not self._is_envpool:
            obs, info = self._envs.reset(seed=seed)
        else:  # seeded when it was made
            self._envs.async_reset()
            obs, info = self._envs.recv(True, True)
        _UNDER_WAY[self._envs] -= self.num_ready
        return _first(_lane_ids(info), obs, info)

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        _UNDER_WAY[self._envs] += len(lanes)
        if self._is_envpool:
            self._envs.send(action, lanes)
        else:
            self._envs.send(action)  # for the lanes of the last recv, which these are

    def recv(self) -> Arrival:
        obs, reward, terminated, truncated, info = self._envs.recv()
        _UNDER_WAY[self._envs] -= self.num_ready
        return Arrival(_lane_ids(info), obs, reward, terminated, truncated, info)

    def restart(self, lanes: np.ndarray) -> Arrival:
        raise ValueError("environments in threads of C++ reset themselves: no mode DISABLED")

    def settle(self) -> None:
        """Lanes under way answer only together with others: they are left so."""

    def close(self) -> None:
        close_quietly(self._envs)


def _first(lanes: np.ndarray, obs: Any, info: dict) -> Arrival:
    never = np.zeros(len(lanes), np.bool_)
    return Arrival(lanes, obs, np.zeros(len(lanes)), never, never, info)


def _lane_ids(info: dict) -> np.ndarray:
    return np.asarray(info["env_id"], np.int64)
