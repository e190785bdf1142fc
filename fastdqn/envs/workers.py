"""Workers: steps the processes of an AsyncVectorEnv, and handles slow and dead ones."""

import contextlib
import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterable
from multiprocessing import connection
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, concatenate, iterate

from fastdqn.envs.backend_interface import Arrival
from fastdqn.envs.errors import LaneFailure, how_it_ended, one_line
from fastdqn.envs.infos import gather
from fastdqn.envs.observations import put, take
from fastdqn.envs.worker_process import (
    WorkerTarget,
    end_processes,
    inherited_garbage_kept,
    kill_processes,
)
from fastdqn.system.cwd_imports import safe_children


def replace_process(
    envs: AsyncVectorEnv, target: WorkerTarget, lane: int, seed: int, patience: float
) -> None:
    """Kills a worker process and starts another one, which waits to be reset.

    The new process has no part in the shared memory. Its observations come through the pipe.

    Args:
        envs: The vector environment.
        target: Target of its processes.
        lane: The sub-environment.
        seed: Seed of the new process's global generators.
        patience: Seconds to wait for the process to exit, before and after killing it.
    """
    # A process that raised is about to end. If it were killed while it holds the lock of the error
    # queue, no other process could use the queue.
    envs.processes[lane].join(patience)
    envs.processes[lane].kill()
    envs.processes[lane].join(patience)
    envs.parent_pipes[lane].close()
    context = multiprocessing.get_context(envs.context)
    ours, theirs = context.Pipe()
    process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]
        target=target.with_seed(seed - lane),
        name=f"Worker<{type(envs).__name__}>-{lane}",
        args=(
            lane, CloudpickleWrapper(envs.env_fns[lane]), theirs, ours, None, envs.error_queue,
            envs.autoreset_mode, None,
        ),
        daemon=envs.daemon,
    )  # fmt: skip
    with warnings.catch_warnings(), safe_children(), inherited_garbage_kept():
        # Forked as all the others were, although there are threads now.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    envs.parent_pipes[lane], envs.processes[lane] = ours, process


# Seconds that a busy worker may still take when all are closed. Ours, untuned.
_PATIENCE = 5.0


class Workers:
    """Steps an AsyncVectorEnv by sending messages to its worker processes directly.

    AsyncVectorEnv.step_wait() waits for all workers and reports a dead one as a bare EOFError. The
    messages are those of Gymnasium's worker, and observations are in shared memory.

    Args:
        envs: The vector environment.
        num_ready: R, the sub-environments that recv() waits for.
        restarts: Total number of failed processes that may be replaced.
        info_keys: Keys of info that are used, beside those of masks and episode ends.

    Attributes:
        lost: Failures of workers that were replaced; the caller pops them.
    """

    def __init__(
        self,
        envs: AsyncVectorEnv,
        num_ready: int,
        restarts: int = 0,
        info_keys: tuple[str, ...] = (),
    ):
        if num_ready < envs.num_envs and not envs.shared_memory:
            raise ValueError(
                "env_batch_size below num_envs needs an AsyncVectorEnv with shared_memory=True"
            )
        self._envs, self.num_ready, self._info_keys = envs, num_ready, info_keys
        worker = envs.worker
        self._target = worker if isinstance(worker, WorkerTarget) else WorkerTarget(0, worker)
        self._restarts, self._restarted = restarts, 0
        self.lost: list[LaneFailure] = []
        self._seeds: list[int | None] = [None] * envs.num_envs
        self._failed = False
        self._errors: dict[int, LaneFailure] = {}
        self._in_flight: set[int] = set()
        self._arrived: deque[int] = deque()  # in flight, with a message to read
        # For the watchdog thread:
        self._call_ids = [0] * envs.num_envs
        self._hung: dict[int, str] = {}

    def reset(self, seed: int | None) -> Arrival:
        self.settle()
        for lane in range(self._envs.num_envs):
            self._seeds[lane] = None if seed is None else seed + lane
            self._post(lane, ("reset", {"seed": self._seeds[lane], "options": None}))
        return self.recv()

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        for lane, taken in zip(lanes.tolist(), action, strict=True):
            self._post(lane, ("step", taken))

    def recv(self) -> Arrival:
        lanes = np.array(self._next_ready(), np.int64)
        return self._collect(lanes, [self._message(lane) for lane in lanes.tolist()])

    def restart(self, lanes: np.ndarray) -> Arrival:
        for lane in lanes.tolist():
            self._post(lane, ("reset", {"seed": None, "options": None}))
        messages: list[Any] = [(None, {})] * self._envs.num_envs
        for lane in lanes.tolist():
            messages[lane] = self._message(lane)
        return self._collect(np.arange(self._envs.num_envs), messages)

    def unanswered(self) -> dict[int, int]:
        """Returns the id of the open call of each busy worker; called from another thread."""
        waiting = {}
        for lane in list(self._in_flight):
            call_id = self._call_ids[lane]
            with contextlib.suppress(OSError, ValueError):  # it is being replaced
                if not self._envs.parent_pipes[lane].poll(0):
                    waiting[lane] = call_id
        return waiting

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        """Kills a worker that hangs, so that the wait for it fails; called from another thread."""
        if self._call_ids[lane] == call_id:
            self._hung[lane] = why
            self._envs.processes[lane].kill()  # a stopped process ignores all other signals

    def settle(self) -> None:
        for lane in sorted(self._in_flight):
            self._message(lane)
        self._arrived.clear()

    def close(self) -> None:
        """Ends the processes: by a message if all of them respond soon, otherwise by SIGKILL."""
        if self._envs.closed:
            return
        self._restarts = 0
        with contextlib.suppress(EOFError, OSError, LaneFailure):  # a worker has just died
            if not self._failed and self._all_answer():
                end_processes(self._envs.processes, self._ask_to_close, _PATIENCE)
        kill_processes(self._envs.processes, _PATIENCE)
        self._envs.close(terminate=True)

    def _ask_to_close(self) -> None:
        for pipe in self._envs.parent_pipes:
            pipe.send(("close", None))

    def _all_answer(self) -> bool:
        """Waits a while for each busy worker; returns False if one is dead or hangs."""
        if not all(process.is_alive() for process in self._envs.processes):
            return False
        for lane in sorted(self._in_flight):
            if not self._envs.parent_pipes[lane].poll(_PATIENCE):
                return False
            self._message(lane)
        return True

    def _next_ready(self) -> Iterable[int]:
        """Returns the next num_ready workers: all in order, or the first ones to finish."""
        if self.num_ready == self._envs.num_envs:
            return range(self.num_ready)
        pipes = self._envs.parent_pipes
        while len(self._arrived) < self.num_ready:
            waiting = self._in_flight.difference(self._arrived)
            waited_for: dict[Any, int] = {pipes[lane]: lane for lane in waiting}
            # Sorted, so that the order of workers that finish together does not depend on a set.
            self._arrived.extend(sorted(waited_for[pipe] for pipe in connection.wait(waited_for)))
        return [self._arrived.popleft() for _ in range(self.num_ready)]

    def _collect(self, lanes: np.ndarray, messages: list[tuple]) -> Arrival:
        envs = self._envs
        reward = np.zeros(len(lanes), np.float64)
        terminated, truncated = np.zeros((2, len(lanes)), np.bool_)
        for i, message in enumerate(messages):
            if len(message) == 5:
                reward[i], terminated[i], truncated[i] = message[1:4]
            if envs.shared_memory and message[0] is not None:  # from a replaced process
                put(envs.single_observation_space, envs.observations, int(lanes[i]), message[0])
        if not envs.shared_memory:
            envs.observations = _stacked(envs, [message[0] for message in messages])
        obs = envs.observations
        if len(lanes) < envs.num_envs:
            obs = take(envs.single_observation_space, obs, lanes)
        info = gather([message[-1] for message in messages], self._info_keys)
        return Arrival(lanes, obs, reward, terminated, truncated, info)

    def _post(self, lane: int, message: tuple) -> None:
        self._call_ids[lane] += 1
        self._in_flight.add(lane)
        try:
            self._envs.parent_pipes[lane].send(message)
        except OSError:
            self._replace(self._death(lane))

    def _message(self, lane: int) -> tuple:
        """Returns the next message of a worker, or of its replacement.

        Raises:
            LaneFailure: The worker raised or died, and may not be replaced.
        """
        while True:
            try:
                answer, is_well = self._envs.parent_pipes[lane].recv()
            except (EOFError, OSError):
                failure = self._death(lane)
            else:
                self._in_flight.discard(lane)
                if is_well:
                    return answer
                failure = self._error_of(lane)
            self._replace(failure)

    def _replace(self, failure: LaneFailure) -> None:
        """Replaces a failed worker process and resets it with a new seed, to fail differently.

        Raises the failure if no replacement is left.
        """
        lane, seed = failure.lane, self._seeds[failure.lane]
        failure.seed = seed
        if self._restarted >= self._restarts:
            self._failed = True
            raise failure.without_restarts(self._restarts)
        self._restarted += 1
        new_seed = (seed or 0) + self._envs.num_envs
        replace_process(self._envs, self._target, lane, new_seed, _PATIENCE)
        self._errors.pop(lane, None)
        failure.line += f"; restarted ({self._restarted} of {self._restarts})"
        self.lost.append(failure)
        self._seeds[lane] = None if seed is None else new_seed
        self._post(lane, ("reset", {"seed": self._seeds[lane], "options": None}))

    def _error_of(self, lane: int) -> LaneFailure:
        """Returns the error of a worker; errors of several workers arrive in any order."""
        while lane not in self._errors:
            try:
                at, _, error, trace = self._envs.error_queue.get(timeout=_PATIENCE)
            except Exception as lost:  # queue.Empty, or an exception that cannot be unpickled
                return LaneFailure(lane, f"it raised an error that cannot be pickled ({lost!r})")
            self._errors[at] = LaneFailure(at, one_line(error), trace)
        return self._errors[lane]

    def _death(self, lane: int) -> LaneFailure:
        process = self._envs.processes[lane]
        process.join(_PATIENCE)  # its pipe is closed, so it is ending or hangs at exit
        if (reported := self._target.reports().pop(lane, None)) is not None:
            return LaneFailure(lane, *reported)
        return LaneFailure(lane, self._hung.pop(lane, None) or how_it_ended(process.exitcode))


def _stacked(envs: AsyncVectorEnv, observations: list) -> Any:
    """Batches observations without shared memory; None keeps the previous observation."""
    kept = iterate(envs.observation_space, envs.observations)
    fresh = [old if new is None else new for old, new in zip(kept, observations, strict=True)]
    return concatenate(envs.single_observation_space, fresh, envs.observations)
