"""Back ends: how calls reach a vector environment, and which sub-environments return first."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.envs.backend_interface import Arrival, Backend
from fastdqn.envs.errors import LaneFailure
from fastdqn.envs.sub_env import close_quietly
from fastdqn.envs.worker_groups import WorkerGroups
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from fastdqn.envs.workers import Workers


def connect(
    envs: VectorEnv,
    env_batch_size: int | None = None,
    restarts: int = 0,
    info_keys: tuple[str, ...] = (),
) -> Backend:
    """Returns the back end for a vector environment.

    Args:
        envs: Any vector environment.
        env_batch_size: Sub-environments to wait for; None uses all, or the batch size that envs
            were made with.
        restarts: Total number of failed worker processes that may be replaced.
        info_keys: Keys of info that are used, beside those of masks and episode ends.

    Raises:
        ValueError: envs cannot return partial batches of this size, or cannot be restarted.
    """
    if isinstance(envs, WorkerVectorEnv):
        batch = env_batch_size or envs.num_envs  # an evaluation waits for all
        if envs.in_turns and batch not in (envs.num_envs, envs.num_envs / 2):
            raise ValueError(
                f"env_batch_size is {env_batch_size}, and double buffering has two halves: use "
                f"{envs.num_envs // 2}"
            )
        return WorkerGroups(envs, env_batch_size or envs.num_envs, restarts)
    if isinstance(envs, AsyncVectorEnv):
        return Workers(envs, env_batch_size or envs.num_envs, restarts, info_keys)
    if restarts:
        raise ValueError(
            f"restart_envs is {restarts}, but these environments have no worker processes: use "
            "--vectorization workers or async"
        )
    backend = Native(envs) if hasattr(type(envs), "recv") else Calls(envs)
    if env_batch_size not in (None, backend.num_ready):
        raise ValueError(
            f"env_batch_size is {env_batch_size}, but these environments return "
            f"{backend.num_ready} results at a time. Any size works with --vectorization async "
            "or envpool, and multiples of a worker's environments with workers"
        )
    return backend


def ready_count(envs: VectorEnv) -> int:
    """Returns how many sub-environments each step of given environments returns."""
    return connect(envs).num_ready


class _InProcess:
    """Base of the back ends without worker processes, which cannot replace a sub-environment."""

    def __init__(self):
        self.lost: list[LaneFailure] = []

    def unanswered(self) -> None:
        return None

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        raise NotImplementedError("only the thread that waits can end a call")


class Calls(_InProcess):
    """Steps any VectorEnv by reset() and step(); all sub-environments return together."""

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
        # Gymnasium pops the mask from the dict and may keep it, so both are new objects.
        mask = np.zeros(self.num_ready, np.bool_)
        mask[lanes] = True
        return _first(self._lanes, *self._envs.reset(options={"reset_mask": mask}))

    def settle(self) -> None:
        """Does nothing: no call is open between two calls."""

    def close(self) -> None:
        close_quietly(self._envs)


# Open calls of environments; they outlive a back end, and a new one must know of them.
_UNDER_WAY: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class Native(_InProcess):
    """Steps environments in C++ threads by their own send() and recv(): EnvPool and ale-py."""

    def __init__(self, envs: Any):
        super().__init__()
        self._envs = envs
        config = getattr(envs, "config", {})
        self.num_ready = int(getattr(envs, "batch_size", config.get("batch_size", envs.num_envs)))
        self._is_envpool = hasattr(envs, "async_reset")

    def reset(self, seed: int | None) -> Arrival:
        if under_way := _UNDER_WAY.get(self._envs):
            raise ValueError(
                f"{under_way} sub-environments are still stepping. Environments with partial "
                "batches can be started only once: make new ones"
            )
        _UNDER_WAY[self._envs] = self._envs.num_envs
        if not self._is_envpool:
            obs, info = self._envs.reset(seed=seed)
        else:  # EnvPool is seeded when it is made
            self._envs.async_reset()
            obs, info = self._envs.recv(True, True)
        _UNDER_WAY[self._envs] -= self.num_ready
        return _first(_lane_ids(info), obs, info)

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        _UNDER_WAY[self._envs] += len(lanes)
        if self._is_envpool:
            self._envs.send(action, lanes)
        else:
            self._envs.send(action)  # goes to the sub-environments of the last recv()

    def recv(self) -> Arrival:
        obs, reward, terminated, truncated, info = self._envs.recv()
        _UNDER_WAY[self._envs] -= self.num_ready
        return Arrival(_lane_ids(info), obs, reward, terminated, truncated, info)

    def restart(self, lanes: np.ndarray) -> Arrival:
        raise ValueError(
            "environments in C++ threads reset themselves and have no AutoresetMode.DISABLED"
        )

    def settle(self) -> None:
        """Leaves open calls as they are: they return only together with later ones."""

    def close(self) -> None:
        close_quietly(self._envs)


def _first(lanes: np.ndarray, obs: Any, info: dict) -> Arrival:
    never = np.zeros(len(lanes), np.bool_)
    return Arrival(lanes, obs, np.zeros(len(lanes)), never, never, info)


def _lane_ids(info: dict) -> np.ndarray:
    return np.asarray(info["env_id"], np.int64)
