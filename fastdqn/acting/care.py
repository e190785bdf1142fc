"""Care: what becomes of lanes that fail, and the process that takes a failed one's place."""

import multiprocessing
import signal
import warnings
from typing import Any

from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker
from gymnasium.vector.utils import CloudpickleWrapper

# What may be sent to all processes of a group, by a terminal or by a cluster's scheduler.
GROUP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)


def replace_process(envs: AsyncVectorEnv, lane: int, patience: float) -> None:
    """End a lane's process, whatever it does, and start another in its place, which waits to be
    reset.

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
        target=_work_deafly,
        name=f"Worker<{type(envs).__name__}>-{lane}",
        args=(
            envs.worker or _async_worker, lane, CloudpickleWrapper(envs.env_fns[lane]), theirs,
            ours, None, envs.error_queue, envs.autoreset_mode, None,
        ),
        daemon=envs.daemon,
    )  # fmt: skip
    with warnings.catch_warnings():
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


def _work_deafly(worker, *arguments) -> None:
    """Signals that go to all of a group are the parent's to hear: see make.py."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    worker(*arguments)
