"""For tests of ranks: functions that run in several connected processes, and runs by torchrun."""

import importlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastdqn.config.schema import ConfigError
from fastdqn.envs import Step
from fastdqn.ranks.one_rank import OneRank, RanksError
from fastdqn.ranks.process_group import joined

# Seconds after which a test gives up. A process takes several to import torch.
SECONDS = 120


def run_ranks(function: str, *args: Any, count: int = 2) -> list[Any]:
    """Calls module:function(ranks, *args) in connected processes; returns their results.

    The result of one that fails is None.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for index in range(count):
        own = shared | {"RANK": index, "LOCAL_RANK": index, "PYTHONPATH": os.pathsep.join(sys.path)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", "from helpers import ranks; ranks.child()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=os.environ | {name: str(value) for name, value in own.items()},
            )
        )  # fmt: skip
    with ExitStack() as stack:
        for each in processes:
            stack.enter_context(each)
            stack.callback(each.kill)
            assert each.stdin is not None
            each.stdin.write(pickle.dumps((function, args)))
            each.stdin.close()
            each.stdin = None
        answers = [each.communicate(timeout=SECONDS)[0] for each in processes]
    return [pickle.loads(answer) if answer else None for answer in answers]


def child() -> None:
    """Runs in each of the processes."""
    name, args = pickle.loads(sys.stdin.buffer.read())
    module, _, function = name.partition(":")
    with joined() as ranks:  # an earlier run of the same processes
        ranks.mean(1.0)
    with joined() as ranks:
        result = getattr(importlib.import_module(module), function)(ranks, *args)
    sys.stdout.buffer.write(pickle.dumps(result))


def torchrun(*words: str, count: int = 2) -> subprocess.Popen:
    """Starts fastdqn with these words by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    free = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "fastdqn"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*launcher, *free, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment,
    )  # fmt: skip


def output_of(process: subprocess.Popen) -> str:
    """Returns the output of a process once it has ended."""
    with process:
        return process.communicate(timeout=SECONDS)[0]


def workers_of(process: subprocess.Popen) -> list[int]:
    """Returns the processes that torchrun has started, by rank."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = sorted({int(pid) for each in tasks for pid in each.read_text().split()})
    return [pid for pid in pids if b"fastdqn" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class Alone(OneRank):
    """One of two ranks, without the other."""

    count = 2

    def __init__(self, index: int):
        self.index = self.local_index = index

    @staticmethod
    def average(tensor) -> None:
        """Takes the gradient of this rank for the mean."""


def empty_step(lanes: int, ended: list[int], keys: bool = False) -> Step:
    """Returns a step in which some environments ended, environment i with return 10 i."""
    numbers, none = np.arange(lanes), np.zeros(0, np.int64)
    over = np.array(ended, np.int64)
    return Step(
        numbers, numbers, np.zeros(lanes), numbers < 0, numbers < 0, np.zeros((lanes, 1)), none,
        np.zeros((0, 1)), over, 10.0 * over, over + 1,
        info={"is_success": over % 2.0} if keys else None,
    )  # fmt: skip


def answers(ranks) -> dict[str, Any]:
    """Returns what two ranks exchange, of each kind."""
    index, calls, said = ranks.index, [], {}
    stop, wants = ranks.listen(lambda: index == 1, lambda: False)
    ready, clock = ranks.writer(lambda: index == 0, lambda: 1e9)
    said["before"] = stop(), ready(), clock()
    ranks.prepare(4, 4, ("is_success",))
    step = empty_step(4 - index, [0, 3] if index else [], keys=index == 1)
    exchanged = ranks.exchange(step, calls.append)
    said["steps"], said["phases"] = exchanged.steps, list(calls)
    ended = exchanged.ended
    said["ended"] = [*map(list, (ended.ended_lanes, ended.returns, ended.lengths))]
    said["info"] = {key: list(values) for key, values in ended.info.items()}
    said["agreed"] = stop(), wants(), ready()
    said["clock"] = clock()
    said["end"] = ranks.end("stopped by on_step") if index else ""
    again = ranks.exchange(empty_step(4, []), calls.append)
    said["again"] = again.steps, len(again.ended.ended_lanes), again.reason
    said["numbers"] = tuple(ranks.mean(index, 5.0)), ranks.largest(-index)
    said["first"] = ranks.first(lambda: f"of rank {index}")
    said["common"] = ranks.common(["a", "b", "c"][: 3 - index]), ranks.common([str(index)])
    said["together"] = ranks.together(lambda: index)
    said["mistaken"] = _error_of(lambda: ranks.together(lambda: _fail_on_second(index)))
    ranks.require_equal(lambda: 7, "the weights")
    said["unequal"] = _error_of(lambda: ranks.require_equal(lambda: index, "the weights"))
    if index == 1:  # without a word to the other, which waits for it
        sys.stdout.buffer.write(pickle.dumps(said))
        sys.stdout.flush()
        os._exit(1)
    began = time.monotonic()
    said["abandoned"] = _error_of(lambda: (ranks.first(lambda: 0), ranks.mean(1.0)))
    said["seconds"] = time.monotonic() - began
    return said


def _fail_on_second(index: int) -> None:
    if index == 1:
        raise ConfigError(["no device"])


def _error_of(call: Callable[[], Any]) -> tuple[str, str]:
    """Returns the name and the message of the error that a call raises."""
    try:
        call()
    except (RanksError, ConfigError) as error:
        return type(error).__name__, str(error)
    return "", ""
