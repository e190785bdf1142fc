"""WorkerVectorEnv: a few worker processes that step many sub-environments each."""

import contextlib
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from fastdqn.envs.declared_stack import stack_of
from fastdqn.envs.errors import HungError
from fastdqn.envs.step_arrays import StepArrays
from fastdqn.envs.sub_env import UNLIMITED, SubEnv, time_limit_of
from fastdqn.envs.worker_loop import MESSAGE, READY, STEP, run_worker
from fastdqn.envs.worker_process import (
    WorkerTarget,
    inherited_garbage_kept,
    kill_processes,
    starting_workers,
)
from fastdqn.system.cpu_limits import usable_cores
from fastdqn.system.cwd_imports import safe_children

# Polls of a semaphore before a process sleeps, where each has a core: about 100 us. Ours, untuned.
_SPINS = 500
# Seconds that a killed process has to end. Ours, untuned.
_END_SECONDS = 5.0


class WorkerVectorEnv(VectorEnv):
    """N sub-environments in W worker processes, which share memory with this one.

    Each worker steps its sub-environments in turn. EnvStream sends it one command for all of them
    and reads their results in place. Worker w has N / W sub-environments, and the first ones have
    one more if N is not a multiple of W.

    Attributes:
        groups: The numbers of each worker's sub-environments.
        arrays: The shared memory.
        processes, pipes, go: Process, connection and semaphore of each worker.
        replies: Semaphore that each answer releases.
        spins: Polls before this process waits for an answer.
        declared_stack: Number of frames that FrameStackObservation declares.
        max_episode_steps: Time limit of the sub-environments, or UNLIMITED.

    Args:
        env_fns: N functions that make a sub-environment each.
        workers: W, at most N.
        seed: Worker w seeds the global generators of its process with seed + its first
            sub-environment.
        autoreset_mode: As in SyncVectorEnv.
        info_keys: Keys of info whose numbers at episode ends are used.
        in_turns: Whether partial batches are received in the order in which they were sent, so that
            timing changes no result, instead of the first ones to finish.

    Raises:
        ValueError: A sub-environment cannot be made, or a process cannot be started.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], SubEnv]],
        workers: int,
        seed: int = 0,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        info_keys: tuple[str, ...] = (),
        in_turns: bool = False,
    ):
        self.num_envs = num_envs = len(env_fns)
        self.autoreset_mode, self.info_keys = autoreset_mode, info_keys
        self.in_turns = in_turns
        self._read_template(env_fns[0]())
        base, more = divmod(num_envs, workers)
        ends = [base * (w + 1) + min(w + 1, more) for w in range(workers)]
        self.groups = [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self._context = multiprocessing.get_context()
        assert isinstance(self.single_action_space, spaces.Discrete)
        self.arrays = StepArrays(
            self._context, self.single_observation_space, self.single_action_space, num_envs,
            workers, len(info_keys), autoreset_mode == AutoresetMode.SAME_STEP,
        )  # fmt: skip
        self._env_fns, self.target = env_fns, WorkerTarget(seed, run_worker)
        has_cores = usable_cores() > workers
        self.spins = _SPINS if has_cores else 0
        self.replies = self._context.Semaphore(0)
        self.pipes, self.processes, self.go = [], [], []
        with safe_children(), starting_workers(self.target, workers):
            for worker in range(workers):
                self.pipes.append(None)
                self.processes.append(None)
                self.go.append(None)
                self.start_process(worker, self.target)
            for worker in range(workers):
                self.message_of(worker, READY)

    def _read_template(self, env: gymnasium.Env) -> None:
        """Reads spaces and attributes from one sub-environment, and closes it."""
        self.single_observation_space, self.single_action_space = (
            env.observation_space, env.action_space,
        )  # fmt: skip
        self.observation_space = batch_space(env.observation_space, self.num_envs)
        self.action_space = batch_space(env.action_space, self.num_envs)
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode, self.spec = env.render_mode, env.spec
        self.declared_stack = stack_of(env)
        self.max_episode_steps = time_limit_of(env) or UNLIMITED
        with contextlib.suppress(HungError):
            env.close()

    def start_process(self, worker: int, target: WorkerTarget) -> None:
        """Starts a worker process, which sends READY once its sub-environments are made."""
        group = self.groups[worker]
        ours, theirs = self._context.Pipe()
        go = self._context.Semaphore(0)
        process = self._context.Process(  # pyright: ignore[reportAttributeAccessIssue]
            target=target,
            name=f"Worker<{type(self).__name__}>-{worker}",
            args=(
                group.start, _Group(self._env_fns[group.start : group.stop]), worker, self.arrays,
                theirs, go, self.replies, self.autoreset_mode, self.info_keys, self.spins,
            ),
            daemon=True,
        )  # fmt: skip
        with warnings.catch_warnings(), safe_children(), inherited_garbage_kept():
            # Forked as all the others were, although there are threads now.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self.pipes[worker], self.processes[worker], self.go[worker] = ours, process, go

    def command(self, worker: int, message: tuple | None = None) -> None:
        """Sends a worker a message, or the command to step its sub-environments.

        A dead worker never answers: check whether its process is alive.
        """
        arrays = self.arrays
        arrays.command[worker] = STEP if message is None else MESSAGE
        arrays.sent[worker] += 1
        self.go[worker].release()  # first, since the worker must read a message larger than a pipe
        if message is not None:
            with contextlib.suppress(OSError):
                self.pipes[worker].send(message)

    def message_of(self, worker: int, kind: str) -> tuple:
        """Reads the next message of a kind. Others are of a process that has just started.

        Raises:
            EOFError, OSError: The worker is dead.
        """
        while (message := self.pipes[worker].recv())[0] != kind:
            pass
        return message[1:]

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes."""
        kill_processes(self.processes, _END_SECONDS)
        for pipe in self.pipes:
            pipe.close()

    def has_answered(self, worker: int) -> bool:
        return self.arrays.answered[worker] == self.arrays.sent[worker]


class _Group:
    """Makes the sub-environments of a worker; can be pickled.

    Attributes:
        made: How many have been made, which is the place of the one whose constructor raised.
    """

    def __init__(self, env_fns: Sequence[Callable[[], SubEnv]]):
        self._env_fns, self.made = [CloudpickleWrapper(env_fn) for env_fn in env_fns], 0

    def __call__(self) -> list[SubEnv]:
        envs = []
        for env_fn in self._env_fns:
            envs.append(env_fn())
            self.made = len(envs)
        return envs
