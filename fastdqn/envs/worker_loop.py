"""WorkerLoop: steps a group of sub-environments in a worker process, results in shared memory."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
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
        self, envs: Sequence[gymnasium.Env], first: int, arrays: StepArrays, worker: int,
        mode: AutoresetMode, info_keys: tuple[str, ...],
    ):  # fmt: skip
        self._envs, self._rows = envs, range(first, first + len(envs))
        self._arrays, self._worker = arrays, worker
        self._next_step = mode == AutoresetMode.NEXT_STEP
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._info_keys, self._masked = info_keys, False
        self._ended = [False] * len(envs)
        self._write = writer(envs[0].observation_space, arrays.obs)
        self._write_last: Any = None
        if self._same_step:
            self._write_last = writer(envs[0].observation_space, arrays.last_obs)
        self._plan = Plan([], [])
        # Assigning an item of a memoryview takes half the time of an array's.
        items = (arrays.current, arrays.reward, arrays.terminated, arrays.truncated)
        self._items: list[Any] = [memoryview(each.data) for each in items]
        for env in envs:
            if isinstance(env, SubEnv):
                env.copies_obs = False

    def step(self) -> None:
        """Steps every sub-environment of the group, or resets it as the autoreset mode says."""
        arrays, write, worker, ended = self._arrays, self._write, self._worker, self._ended
        current, reward_of, terminated_of, truncated_of = self._items
        actions = arrays.action[self._rows.start : self._rows.stop]
        for at, (row, env, action) in enumerate(zip(self._rows, self._envs, actions, strict=True)):
            current[worker] = row
            if ended[at] and self._next_step:
                obs, info = env.reset()
                reward, terminated, truncated = 0.0, False, False
            else:
                obs, reward, terminated, truncated, info = env.step(action)
            ended[at] = over = terminated or truncated
            if over:
                self._write_numbers(row, info)
                if self._same_step:
                    self._write_last(row, obs)
                    self._write_mask(arrays.last_mask, arrays.has_last_mask, row, info)
                    obs, info = env.reset()
            write(row, obs)
            reward_of[row], terminated_of[row], truncated_of[row] = reward, terminated, truncated
            if info or self._masked:
                self._write_mask(arrays.mask, arrays.has_mask, row, info)

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
            self._write(row, obs)
            arrays.reward[row], arrays.terminated[row], arrays.truncated[row] = 0.0, False, False
            self._write_mask(arrays.mask, arrays.has_mask, row, info)

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

    def _write_mask(self, masks: np.ndarray, has: np.ndarray, row: int, info: dict) -> None:
        mask = info.get("action_mask")
        has[row] = mask is not None
        if mask is not None:
            masks[row], self._masked = mask, True

    def _write_numbers(self, row: int, info: dict) -> None:
        for place, key in enumerate(self._info_keys):
            self._arrays.numbers[row, place] = info.get(key, np.nan)


def writer(space: spaces.Space, batch: Any) -> Callable[[int, Any], None]:
    """Returns a function that checks an observation and writes it to a row of a batch."""

    def write(row: int, obs: Any) -> None:
        if (line := misfit(space, obs)) is not None:
            raise ValueError(line)
        put(space, batch, row, obs)

    if not isinstance(space, spaces.Box):
        return write
    shape, dtype = space.shape, space.dtype
    # Assigning to a view takes half the time of assigning to a row. A shape () has a view, too.
    rows = [batch[i : i + 1].reshape(shape) for i in range(len(batch))]

    def write_array(row: int, obs: Any) -> None:
        # Most dtypes are one object, whose comparison is faster than ==.
        if type(obs) is np.ndarray and obs.shape == shape and obs.dtype is dtype:
            rows[row][...] = obs
        else:
            write(row, obs)

    return write_array


def run_worker(
    first: int, make: Callable[[], Sequence[gymnasium.Env]], worker: int,
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
        pipe.send((ERROR, int(arrays.current[worker]), line, trace))
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
