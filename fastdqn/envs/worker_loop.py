"""WorkerLoop: steps a group of sub-environments in a worker process, results in shared memory."""

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from fastdqn.envs.errors import misfit, one_line, own_trace
from fastdqn.envs.observations import put
from fastdqn.envs.step_arrays import StepArrays
from fastdqn.envs.sub_env import SubEnv, close_quietly
from fastdqn.envs.sub_env_state import Plan, Unreadable, plan_lane, read_lane, require_known

# Values of StepArrays.command: step all sub-environments, or read a message from the pipe.
STEP, MESSAGE = 0, 1
# Kinds of messages of a worker: its sub-environments are made; an answer; an error.
READY, ANSWER, ERROR = "ready", "answer", "error"
# Seconds between two checks of whether the parent lives. Ours, untuned.
_PARENT_CHECK = 2.0
# Characters of an error and of its traceback that are sent. A pipe holds 64 KiB, and the parent
# reads only after the answer was counted. Ours, untuned.
_MOST_LINE, _MOST_TRACE = 1_000, 6_000


class _ParentGoneError(Exception):
    """The parent process has ended."""


class WorkerLoop:
    """Steps sub-environments as Gymnasium's SyncVectorEnv does, with the same results.

    Args:
        envs: Sub-environments whose results SubEnv has normalized.
        first: Number of the first one.
        arrays: Where actions are and results go.
        worker: Number of this worker.
        mode: Autoreset mode.
        info_keys: Keys of info whose numbers at episode ends are used.
    """

    def __init__(
        self, envs: Sequence[SubEnv], first: int, arrays: StepArrays, worker: int,
        mode: AutoresetMode, info_keys: tuple[str, ...],
    ):  # fmt: skip
        self._envs, self._rows = envs, range(first, first + len(envs))
        self._arrays, self._worker = arrays, worker
        self._next_step = mode == AutoresetMode.NEXT_STEP
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._info_keys, self._masked = info_keys, False
        self._ended = [False] * len(envs)
        self._space = envs[0].observation_space
        self._plan = Plan([], [])
        # What step() uses for each sub-environment, without a look at its attributes.
        self._stepped: list[Any] = [
            env.env if env.is_plain else SimpleNamespace(step=env.step_in_place) for env in envs
        ]
        self._shape = self._space.shape if isinstance(self._space, spaces.Box) else None
        self._views = _row_views(self._space, arrays.obs, self._rows)
        # Assigning an element of a memoryview takes half the time of an array's.
        self._reward: Any = memoryview(arrays.reward.data)
        group = slice(first, first + len(envs))
        self._cleared = arrays.terminated[group], arrays.truncated[group]
        self._actions, self._has_mask = arrays.action[group], arrays.has_mask[group]

    def step(self) -> None:
        """Steps every sub-environment of the group, or resets it as the autoreset mode says."""
        current, reward_of, worker = self._arrays.current, self._reward, self._worker
        shape, dtype, array = self._shape, self._space.dtype, np.ndarray
        for flags in self._cleared:
            flags.fill(False)
        if self._masked:
            self._has_mask.fill(False)
        # An episode end is written to the list while it is read: each row only after it was read.
        for row, over, env, action, view in zip(
            self._rows, self._ended, self._stepped, self._actions, self._views, strict=True
        ):
            current[worker] = row
            if over and self._next_step:
                obs = self._begin(row)
            else:
                obs, reward, terminated, truncated, info = env.step(action)
                # Most results are of this form, and need no call.
                if (
                    terminated is False and truncated is False and type(reward) is float
                    and type(info) is dict and not info and not over
                ):  # fmt: skip
                    reward_of[row] = reward
                else:
                    obs = self._write_values(row, obs, reward, terminated, truncated, info)
            # Most dtypes are one object, whose comparison is faster than ==.
            if type(obs) is array and obs.shape == shape and obs.dtype is dtype:
                view[...] = obs
            else:
                self._write(self._arrays.obs, row, obs)

    def reset(self, seeds: Sequence[int | None] | None, rows: Sequence[int] | None = None) -> None:
        """Resets sub-environments.

        Args:
            seeds: Their seeds, if any.
            rows: Their numbers; None resets the group.
        """
        arrays = self._arrays
        for at, row in enumerate(rows or self._rows):
            arrays.current[self._worker] = row
            place = row - self._rows.start
            obs, info = self._envs[place].reset(seed=seeds[at] if seeds else None)
            self._ended[place] = False
            self._write(arrays.obs, row, obs)
            arrays.reward[row], arrays.terminated[row], arrays.truncated[row] = 0.0, False, False
            self._write_mask(row, info)

    def read_state(self) -> dict[str, Any]:
        """Returns the states of the sub-environments; raises Unreadable."""
        for env in self._envs:
            require_known(env)
        lanes = {str(row): read_lane(env) for row, env in zip(self._rows, self._envs, strict=True)}
        return {"ended": list(self._ended), "lanes": lanes}

    def check_state(self, ended: list[bool], lanes: dict[str, Any]) -> None:
        """Prepares the loading of states. Raises ValueError if a field does not fit."""
        self._plan = Plan([], [])
        for row, env in zip(self._rows, self._envs, strict=True):
            plan_lane(env, lanes[str(row)], f"envs.lanes.{row}", self._plan)
        self._plan.set(self, "_ended", list(ended))

    def load_state(self) -> None:
        """Loads the states that were checked."""
        self._plan.apply()
        self._masked = True  # the parent may have loaded masks

    def _begin(self, row: int) -> Any:
        """Resets a sub-environment whose episode has ended. Returns its observation."""
        at = row - self._rows.start
        obs, info = self._envs[at].reset()
        self._ended[at], self._reward[row] = False, 0.0
        if info:
            self._write_mask(row, info)
        return obs

    def _write_values(
        self, row: int, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> Any:
        """Writes the values of a step of any form, and resets after an episode end (SAME_STEP).

        Returns the observation that is left to write.
        """
        arrays, at = self._arrays, row - self._rows.start
        env = self._envs[at]
        obs, reward, terminated, truncated, info = env.normalized(
            obs, reward, terminated, truncated, info
        )
        self._reward[row], self._ended[at] = reward, terminated or truncated
        if self._ended[at]:
            arrays.terminated[row], arrays.truncated[row] = terminated, truncated
            for place, key in enumerate(self._info_keys):
                arrays.numbers[row, place] = info.get(key, np.nan)
            if self._same_step:
                self._write(arrays.last_obs, row, obs)
                mask = info.get("action_mask")
                arrays.has_last_mask[row] = mask is not None
                if mask is not None:
                    arrays.last_mask[row] = mask
                obs, info = env.reset()
        if info:
            self._write_mask(row, info)
        return obs

    def _write_mask(self, row: int, info: dict[str, Any]) -> None:
        mask = info.get("action_mask")
        self._arrays.has_mask[row] = mask is not None
        if mask is not None:
            self._arrays.mask[row], self._masked = mask, True

    def _write(self, batch: Any, row: int, obs: Any) -> None:
        """Checks an observation and writes it to a row of a batch."""
        if (line := misfit(self._space, obs)) is not None:
            raise ValueError(line)
        put(self._space, batch, row, obs)


def _row_views(space: spaces.Space, batch: Any, rows: range) -> list[Any]:
    """Returns a view of each row, if the batch is one array. A shape () has a view, too.

    Assigning to a view takes half the time of assigning to a row.
    """
    if not isinstance(space, spaces.Box):
        return [None] * len(rows)
    return [batch[row : row + 1].reshape(space.shape) for row in rows]


def run_worker(
    first: int, make: Callable[[], Sequence[SubEnv]], worker: int,
    arrays: StepArrays, pipe: Any, go: Any, replies: Any, mode: AutoresetMode,
    info_keys: tuple[str, ...], spins: int,
) -> None:  # fmt: skip
    """The main function of a worker process: makes its sub-environments and follows commands.

    Args:
        first: Number of the first sub-environment.
        make: Makes the sub-environments.
        worker: Number of the worker.
        arrays: Shared memory.
        pipe: Connection to the parent for messages.
        go: Semaphore that the parent releases for each command.
        replies: Semaphore that the worker releases for each answer.
        mode: Autoreset mode.
        info_keys: Keys of info whose numbers at episode ends are used.
        spins: Times to try before waiting for a command.
    """
    parent = os.getppid()
    arrays.current[worker] = first
    envs = make()
    loop = WorkerLoop(envs, first, arrays, worker, mode, info_keys)
    pipe.send((READY,))
    try:
        is_open = True
        while is_open:
            wait_for(go, spins, parent)
            if arrays.command[worker] == STEP:
                loop.step()
            else:
                is_open = _handle_message(loop, pipe)
            _answer(arrays, worker, replies)
    except _ParentGoneError:
        pass
    except BaseException as error:  # SystemExit and GeneratorExit among them
        trace = own_trace(error)[-_MOST_TRACE:]
        line = one_line(error)[:_MOST_LINE]
        pipe.send((ERROR, arrays.current[worker], line, trace))
        arrays.failed[worker] = True
        _answer(arrays, worker, replies)
    finally:
        for env in envs:
            close_quietly(env)


def _handle_message(loop: WorkerLoop, pipe: Any) -> bool:
    """Reads a message and does what it says. Returns False for the message to close."""
    try:
        what, *arguments = pipe.recv()
    except (EOFError, OSError):
        raise _ParentGoneError from None
    if what == "close":
        return False
    if what == "reset":
        loop.reset(*arguments)
        return True
    calls = {
        "read_state": loop.read_state,
        "check_state": loop.check_state,
        "load_state": loop.load_state,
    }
    try:
        pipe.send((ANSWER, calls[what](*arguments), ""))
    except (Unreadable, ValueError) as error:
        pipe.send((ANSWER, None, str(error)))
    return True


def _answer(arrays: StepArrays, worker: int, replies: Any) -> None:
    arrays.answered[worker] += 1  # before the semaphore, which only wakes the parent
    replies.release()


def wait_for(go: Any, spins: int, parent: int) -> None:
    """Waits for a command; raises _ParentGoneError once the process with this pid has ended."""
    for _ in range(spins):
        if go.acquire(False):
            return
    while not go.acquire(True, _PARENT_CHECK):
        # Not by a pipe: other forked workers hold the parent's end open, too.
        if os.getppid() != parent:
            raise _ParentGoneError
