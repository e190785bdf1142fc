"""WorkerGroups: the back end of WorkerVectorEnv, which handles slow and dead workers."""

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdqn.config.conflicts import are_whole_groups
from fastdqn.envs.backend_interface import Arrival
from fastdqn.envs.errors import LaneFailure, how_it_ended
from fastdqn.envs.observations import take
from fastdqn.envs.worker_loop import ERROR
from fastdqn.envs.worker_process import end_processes
from fastdqn.envs.worker_vector_env import WorkerVectorEnv

# Seconds that a busy worker may still take when all are closed, and between two checks of whether
# busy workers live. Ours, untuned.
_PATIENCE, _ALIVE_CHECK = 5.0, 0.1


class WorkerGroups:
    """Sends one command to each worker, and reads its step results in shared memory.

    Args:
        envs: The vector environment.
        num_ready: R, the sub-environments that recv() waits for: those of the first workers that
            finish, or of those that were commanded first with envs.in_turns. R < N needs groups of
            one size, of which R is a multiple.
        restarts: Total number of failed processes that may be replaced.

    Attributes:
        lost: Failures of workers that were replaced; the caller pops them.
    """

    def __init__(self, envs: WorkerVectorEnv, num_ready: int, restarts: int = 0):
        size = len(envs.groups[0])
        if not are_whole_groups(num_ready, envs.num_envs, len(envs.groups)):
            raise ValueError(
                f"env_batch_size is {num_ready}: with {len(envs.groups)} workers for "
                f"{envs.num_envs} environments, use a multiple of the {size} of each worker, and a "
                "num_envs that is divisible by the number of workers"
            )
        self._envs, self.num_ready, self._restarts, self._restarted = envs, num_ready, restarts, 0
        self._num_workers = len(envs.groups) if num_ready == envs.num_envs else num_ready // size
        self.lost: list[LaneFailure] = []
        self._seeds: list[int | None] = [None] * envs.num_envs
        self._in_flight: dict[int, None] = {}  # workers in the order of their commands
        self._arrived: deque[int] = deque()  # answered workers, still in flight
        self._failed, self.in_turns = False, envs.in_turns
        self._worker_of = [w for w, group in enumerate(envs.groups) for _ in group]
        self._hung: dict[int, str] = {}  # written by the watchdog's thread
        arrays = envs.arrays
        # The results of all without infos, made once.
        self._all = Arrival(
            np.arange(envs.num_envs), arrays.obs, arrays.reward, arrays.terminated,
            arrays.truncated, {},
        )  # fmt: skip

    def reset(self, seed: int | None) -> Arrival:
        self.settle()
        n = self._envs.num_envs
        self._seeds = [None if seed is None else seed + lane for lane in range(n)]
        for worker, group in enumerate(self._envs.groups):
            self._post(worker, ("reset", self._seeds[group.start : group.stop]))
        return self.recv()

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        self._envs.arrays.action[lanes] = action
        size = len(self._envs.groups[0])
        workers = range(len(self._envs.groups))
        if len(lanes) < self._envs.num_envs:
            workers = [self._worker_of[lane] for lane in lanes[::size].tolist()]
        for worker in workers:
            self._post(worker, None)

    def recv(self) -> Arrival:
        if self._num_workers == len(self._envs.groups):
            self._wait_for(range(self._num_workers))
            self._in_flight.clear()
            return self._arrival(None)
        if self.in_turns:
            self._arrived.extend(self._wait_for(list(self._in_flight)[: self._num_workers]))
        while len(self._arrived) < self._num_workers:
            waiting = sorted(self._in_flight.keys() - self._arrived)
            self._arrived.extend(self._wait_for(waiting, least=1))
        ready = [self._arrived.popleft() for _ in range(self._num_workers)]
        for worker in ready:
            del self._in_flight[worker]
        return self._arrival(np.concatenate([np.array(self._envs.groups[w]) for w in ready]))

    def restart(self, lanes: np.ndarray) -> Arrival:
        for worker, group in enumerate(self._envs.groups):
            if rows := [lane for lane in lanes.tolist() if lane in group]:
                self._post(worker, ("reset", None, rows))
        self._wait_for(sorted(self._in_flight))
        self._in_flight.clear()
        return self._arrival(None)

    def unanswered(self) -> dict[int, int]:
        """Returns the id of the open call of the sub-environment that each busy worker is at.

        Called from another thread.
        """
        arrays, waiting = self._envs.arrays, {}
        for worker in list(self._in_flight):
            if not self._envs.has_answered(worker):
                waiting[arrays.current[worker]] = arrays.sent[worker]
        return waiting

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        """Kills a worker that hangs, so that the wait for it fails; called from another thread."""
        worker = self._worker_of[lane]
        process = self._envs.processes[worker]  # before the check: it may be replaced after it
        at = self._envs.arrays.current[worker], self._envs.arrays.sent[worker]
        if at == (lane, call_id) and not self._envs.has_answered(worker):
            self._hung[worker] = why
            process.kill()  # a stopped process ignores all other signals

    def finish_steps(self) -> None:
        """Waits for open calls and keeps their results for the next recv()."""
        self._wait_for(list(self._in_flight))

    def expect_others(self, lanes: np.ndarray) -> None:
        """Makes recv() return the loaded results of all sub-environments but these."""
        self._arrived.clear()
        waiting = set(lanes.tolist())
        groups = enumerate(self._envs.groups)
        self._in_flight = {w: None for w, group in groups if not waiting.intersection(group)}

    def settle(self) -> None:
        self._wait_for(sorted(self._in_flight))
        self._in_flight.clear()
        self._arrived.clear()

    def close(self) -> None:
        """Ends the processes: by a message if all of them respond soon, otherwise by SIGKILL."""
        envs = self._envs
        if envs.closed:
            return
        self._restarts = 0
        with contextlib.suppress(EOFError, OSError, LaneFailure):  # a worker has just died
            if not self._failed and self._all_answer():
                end_processes(envs.processes, self._ask_to_close, _PATIENCE)
        envs.close()

    def _ask_to_close(self) -> None:
        for worker in range(len(self._envs.groups)):
            self._envs.command(worker, ("close",))

    def _all_answer(self) -> bool:
        """Waits a while for busy workers; returns False if one is dead or hangs."""
        envs = self._envs
        if not all(process.is_alive() for process in envs.processes):
            return False
        for worker in sorted(self._in_flight):
            while not envs.has_answered(worker):
                if not envs.replies.acquire(True, _PATIENCE):
                    return False
            if envs.arrays.failed[worker]:
                return False
        return True

    def _post(self, worker: int, message: tuple | None) -> None:
        self._in_flight[worker] = None
        self._envs.command(worker, message)

    def _wait_for(self, workers: Sequence[int], least: int | None = None) -> list[int]:
        """Waits until at least some of the workers, or all, have answered. Returns those.

        Raises:
            LaneFailure: A worker raised or died, and may not be replaced.
        """
        envs, least = self._envs, len(workers) if least is None else least
        while True:
            # An answer is counted before it releases the semaphore, so none is missed.
            while envs.replies.acquire(False):
                pass
            ready = [worker for worker in workers if envs.has_answered(worker)]
            for worker in ready:
                if envs.arrays.failed[worker]:
                    self._replace(worker, self._error_of(worker))
                    ready = []
            is_enough = len(ready) >= least
            is_idle = not is_enough and self._is_idle()
            # While others answer, a dead worker would never be waited for.
            if is_idle or least < len(workers):
                self._replace_dead(workers)
            if is_enough:
                return ready

    def _replace_dead(self, workers: Sequence[int]) -> None:
        envs = self._envs
        for worker in workers:
            if not envs.processes[worker].is_alive() and not envs.has_answered(worker):
                self._replace(worker, self._death(worker))

    def _is_idle(self) -> bool:
        """Waits for an answer. Returns whether none came for a while."""
        for _ in range(self._envs.spins):
            if self._envs.replies.acquire(False):
                return False
        return not self._envs.replies.acquire(True, _ALIVE_CHECK)

    def _arrival(self, lanes: np.ndarray | None) -> Arrival:
        """Returns the step results of some sub-environments, or of all."""
        arrays, envs, found = self._envs.arrays, self._envs, self._all
        rows: Any = slice(None)
        if lanes is not None:
            rows = lanes
            obs = take(envs.single_observation_space, arrays.obs, lanes)
            reward, terminated, truncated = (values[lanes] for values in found[2:5])
            found = Arrival(lanes, obs, reward, terminated, truncated, {})
        info: dict[str, Any] = {}
        if np.count_nonzero(has := arrays.has_mask[rows]):
            info = {"action_mask": arrays.mask[rows], "_action_mask": has}
        if arrays.last_obs is not None or envs.info_keys:
            self._add_ends(info, found.terminated | found.truncated, lanes, rows)
        return found._replace(info=info) if info else found

    def _add_ends(
        self, info: dict[str, Any], ended: np.ndarray, lanes: np.ndarray | None, rows: Any
    ) -> None:
        """Adds the numbers of info and the last observations of episodes that ended."""
        arrays, envs, last = self._envs.arrays, self._envs, info
        if not ended.any():
            return
        if arrays.last_obs is not None:
            info["final_obs"] = arrays.last_obs
            if lanes is not None:
                info["final_obs"] = take(envs.single_observation_space, arrays.last_obs, lanes)
            info["final_info"], info["_final_obs"] = {}, ended
            last = info["final_info"]
            if (has := arrays.has_last_mask[rows] & ended).any():
                last |= {"action_mask": arrays.last_mask[rows], "_action_mask": has}
        for place, key in enumerate(envs.info_keys):
            numbers = arrays.numbers[rows, place]
            last |= {key: numbers, f"_{key}": ended & ~np.isnan(numbers)}

    def _replace(self, worker: int, failure: LaneFailure) -> None:
        """Replaces a failed process and resets its group with new seeds, to fail differently.

        Raises the failure if no replacement is left.
        """
        envs, group = self._envs, self._envs.groups[worker]
        seed = failure.seed = self._seeds[failure.lane]
        if self._restarted >= self._restarts:
            self._failed = True
            raise failure.without_restarts(self._restarts)
        self._restarted += 1
        self._hung.pop(worker, None)
        envs.processes[worker].join(_PATIENCE)
        envs.processes[worker].kill()
        envs.processes[worker].join(_PATIENCE)
        envs.pipes[worker].close()
        new = [None if (s := self._seeds[i]) is None else s + envs.num_envs for i in group]
        self._seeds[group.start : group.stop] = new
        envs.arrays.failed[worker] = False
        envs.arrays.answered[worker] = envs.arrays.sent[worker]
        # Global generators of the new process draw other numbers, too.
        of_generators = (seed or 0) + envs.num_envs - failure.lane
        envs.start_process(worker, envs.target.with_seed(of_generators))
        failure.also = tuple(lane for lane in group if lane != failure.lane)
        others = f", with envs {group.start} to {group.stop - 1}" if failure.also else ""
        failure.line += f"; restarted ({self._restarted} of {self._restarts}){others}"
        self.lost.append(failure)
        self._envs.command(worker, ("reset", new))

    def _error_of(self, worker: int) -> LaneFailure:
        try:
            return LaneFailure(*self._envs.message_of(worker, ERROR))
        except (EOFError, OSError):  # it was killed while it sent
            return self._death(worker)

    def _death(self, worker: int) -> LaneFailure:
        process = self._envs.processes[worker]
        process.join(_PATIENCE)  # it is ending, or hangs at exit
        reports = self._envs.target.reports()
        for lane in self._envs.groups[worker]:  # one whose constructor raised
            if reported := reports.pop(lane, None):
                return LaneFailure(lane, *reported)
        lane = self._envs.arrays.current[worker]
        return LaneFailure(lane, self._hung.pop(worker, None) or how_it_ended(process.exitcode))
