"""TaskPool: calls of functions in processes of a Ray cluster."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from fastdqn.cluster.resources import Resources, capacity, hide_gpus, too_large
from fastdqn.config.schema import ConfigError
from fastdqn.study.local_scheduler import THREADS
from fastdqn.system import cwd_imports
from fastdqn.text import printable

# Seconds that close() gives calls to end and to remove their files.
_CLOSE = 5.0
_LONGEST = 300  # maximum characters of a reason of Ray


class Lost(NamedTuple):
    """Result of a call whose process was killed, or whose node was lost. reason: one line."""

    reason: str


class TaskPool:
    """Runs calls on the cluster that this process is connected to, each in one process.

    Args:
        resources: What a call needs.
        jobs: Most calls at a time. None: what the cluster holds.

    Raises:
        ConfigError: No node has what a call needs.
    """

    def __init__(self, resources: Resources, jobs: int | None = None):
        room = capacity(resources)
        if room == 0:
            raise ConfigError([too_large(resources)])
        self._resources, self.jobs = resources, min(room, jobs or room)
        self._keys: dict[Any, Any] = {}

    @property
    def free(self) -> int:
        """Number of calls that can start now."""
        return self.jobs - len(self._keys)

    def start(self, key: Any, function: Callable[..., Any], *args: Any) -> None:
        """Starts function(*args) on a node. The function is one of an installed module."""
        call: Any = ray.remote(_call).options(
            num_cpus=self._resources.cpus, num_gpus=self._resources.gpus, max_retries=0,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        threads = max(1, int(self._resources.cpus))
        # As bytes: the function's module is imported once the number of threads is set.
        content = pickle.dumps((function, args))
        has_gpu = self._resources.gpus > 0
        self._keys[call.remote(content, threads, has_gpu, Path.cwd())] = key

    def wait(self) -> tuple[Any, Any]:
        """Waits for the end of a call. Returns (key, what it returned, or Lost).

        Raises what the call raised.
        """
        (ended,), _ = ray.wait(list(self._keys))
        key = self._keys.pop(ended)
        try:
            return key, ray.get(ended)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except RayError as error:
            return key, Lost(printable(" ".join(str(error).split()))[:_LONGEST])

    def close(self) -> None:
        """Ends the calls that are still running."""
        left, end = list(self._keys), time.monotonic() + _CLOSE
        for each in left:
            ray.cancel(each, force=False)
        while left and time.monotonic() < end:
            left = ray.wait(left, num_returns=len(left), timeout=end - time.monotonic())[1]
        for each in left:
            ray.cancel(each, force=True)
        self._keys.clear()


def _call(content: bytes, threads: int, has_gpu: bool, folder: Path) -> Any:
    """Runs a call in a process of a node, with modules of the user found as in the driver."""
    if not has_gpu:
        hide_gpus()
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    if folder.is_dir():
        os.chdir(folder)
    cwd_imports.take_off_path(str(Path(__file__).parents[2]))
    cwd_imports.allow()
    function, args = pickle.loads(content)
    return function(*args)
