"""StepArrays: actions and step results of N sub-environments in memory that processes share."""

import ctypes
import os
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory

from fastdqn.envs.observations import leaves

_OF_WORKERS = ("command", "sent", "answered", "failed", "current")

# The arrays of results beside observations, which a checkpoint keeps of steps not yet received.
RESULTS = (
    "reward", "terminated", "truncated", "mask", "has_mask", "last_mask", "has_last_mask",
    "numbers",
)  # fmt: skip


class StepArrays:
    """Arrays that a parent process and its W worker processes read and write in place.

    A worker writes the rows of its own sub-environments only, and its own elements of answered,
    failed and current. The parent writes the rest.

    Attributes:
        obs: A batch [N, *] of the observation space, however nested.
        last_obs: As obs, the last observations of episodes that ended. None without SAME_STEP.
        action: [N] of the action space's dtype, as the environment counts actions.
        reward: float64[N].
        terminated, truncated: bool[N].
        mask, has_mask: bool[N, A] and bool[N], the action masks, and which rows have one.
        last_mask, has_last_mask: The same for last_obs.
        numbers: float64[N, K], the values of K keys of info at episode ends, NaN if missing.
        command: int64[W], what a worker does next. This and the following are memoryviews, whose
            elements are read and written in half the time of an array's.
        sent, answered: int64[W], number of commands and of answers.
        failed: bool[W], whether an error is in the worker's pipe.
        current: int64[W], the sub-environment that a worker steps or resets.

    Args:
        context: The multiprocessing context.
        observation_space: Of one sub-environment.
        action_space: Of one sub-environment.
        num_envs: N.
        num_workers: W.
        num_keys: K.
        same_step: Whether last observations exist.

    Raises:
        ValueError: The arrays do not fit in /dev/shm.
    """

    obs: Any
    last_obs: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    has_mask: np.ndarray
    last_mask: np.ndarray
    has_last_mask: np.ndarray
    numbers: np.ndarray
    command: memoryview
    sent: memoryview
    answered: memoryview
    failed: memoryview
    current: memoryview

    def __init__(
        self, context: Any, observation_space: spaces.Space, action_space: spaces.Discrete,
        num_envs: int, num_workers: int, num_keys: int, same_step: bool,
    ):  # fmt: skip
        n, w, actions = num_envs, num_workers, int(action_space.n)
        self._space, self._num_envs = observation_space, n
        needed = n * (1 + same_step) * _bytes_of(observation_space) + n * (
            2 * actions + num_keys * 8
        )
        if needed > (free := free_shared_memory()):
            raise ValueError(
                f"{n} environments need {needed / 2**20:,.1f} MiB of shared memory, and /dev/shm "
                f"has {free / 2**20:,.1f} MiB free: lower --num-envs, or start the container with "
                "a larger --shm-size"
            )
        self._obs = create_shared_memory(observation_space, n, context)
        self._last_obs = create_shared_memory(observation_space, n, context) if same_step else None
        fields: dict[str, tuple[tuple[int, ...], Any]] = {
            "action": ((n,), action_space.dtype), "reward": ((n,), np.float64),
            "terminated": ((n,), np.bool_), "truncated": ((n,), np.bool_),
            "mask": ((n, actions), np.bool_), "has_mask": ((n,), np.bool_),
            "last_mask": ((n, actions), np.bool_), "has_last_mask": ((n,), np.bool_),
            "numbers": ((n, num_keys), np.float64), "command": ((w,), np.int64),
            "sent": ((w,), np.int64), "answered": ((w,), np.int64), "failed": ((w,), np.bool_),
            "current": ((w,), np.int64),
        }  # fmt: skip
        self._raw = {}
        for name, (shape, kind) in fields.items():
            dtype = np.dtype(kind)
            size = max(1, dtype.itemsize * int(np.prod(shape)))
            self._raw[name] = context.RawArray(ctypes.c_byte, size), dtype, shape
        self._make_views()

    def _make_views(self) -> None:
        n = self._num_envs
        self.obs = read_from_shared_memory(self._space, self._obs, n)
        self.last_obs = self._last_obs and read_from_shared_memory(self._space, self._last_obs, n)
        for name, (raw, dtype, shape) in self._raw.items():
            count = int(np.prod(shape))
            values = np.frombuffer(raw, dtype, count).reshape(shape)
            setattr(self, name, memoryview(values.data) if name in _OF_WORKERS else values)

    def __getstate__(self) -> tuple:
        """Returns the memory itself: views would be copied."""
        return self._space, self._num_envs, self._obs, self._last_obs, self._raw

    def __setstate__(self, state: tuple) -> None:
        self._space, self._num_envs, self._obs, self._last_obs, self._raw = state
        self._make_views()


def free_shared_memory() -> float:
    """Returns the free bytes of /dev/shm, infinity on systems without it.

    multiprocessing would use the folder of temporary files instead, without a message, where each
    step may write to a disk.
    """
    try:
        system = os.statvfs("/dev/shm")
    except OSError:
        return float("inf")
    return float(system.f_bavail * system.f_frsize)


def _bytes_of(space: spaces.Space) -> int:
    """Returns the bytes of one observation."""
    shaped = [leaf for _, leaf in leaves(space) if leaf.dtype is not None]
    return sum(np.dtype(leaf.dtype).itemsize * int(np.prod(leaf.shape or ())) for leaf in shaped)
