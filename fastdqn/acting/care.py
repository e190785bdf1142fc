"""Care: what becomes of lanes that fail, and the process that takes a failed one's place."""

import multiprocessing
import warnings
from typing import Any

from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import CloudpickleWrapper

from fastdqn.acting.worker_process import WorkerTarget
from fastdqn.working_directory import safe_children


def replace_process(
    envs: AsyncVectorEnv, target: WorkerTarget, lane: int, seed: int, patience: float
) -> None:
    """End a lane's process, whatever it does, and start another in its place, which waits to be
    reset.

    target    of the processes; seed  of the new one's global generators
    patience  seconds for it to be gone, before it is killed and after
    The new one has no part in the shared memory: its observations come with its answers.
    """
    # One that raised is ending: killed while it still holds the lock of the queue for errors, it
    # would keep all others from it.
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
    with warnings.catch_warnings(), safe_children():
        # It is forked as all the others were, though there are threads by now.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    envs.parent_pipes[lane], envs.processes[lane] = ours, process


def put(space: spaces.Space, batch: Any, lane: int, obs: Any) -> None:
    """Write one lane's observation into a batch, however nested."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            put(inner, batch[key], lane, obs[key])
    elif isinstance(space, spaces.Tuple):
        for inner, part, value in zip(space.spaces, batch, obs, strict=True):
            put(inner, part, lane, value)
    else:
        batch[lane] = obs
