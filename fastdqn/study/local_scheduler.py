"""LocalScheduler: runs jobs as processes of this machine, each on its share of the cores."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from fastdqn.study.scheduler import Ended, Job
from fastdqn.system.cpu_limits import thread_limit, usable_cores

# Program that a process starts with: cores and the end with its parent, then the command line.
_PROGRAM = Path(__file__).with_name("run_process.py")
# Variables with the number of threads of a process.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# Seconds between two looks at the processes.
_LOOK = 0.05


class Share(NamedTuple):
    """The cores and the number of threads of one job. No cores: the system decides."""

    cores: tuple[int, ...]
    threads: int


def shares(jobs: int) -> list[Share]:
    """Divides the usable cores among jobs. More jobs than cores share them in turn.

    A CPU quota of a container limits the threads, and not the cores that they may run on.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    usable, limit = usable_cores(), thread_limit() or usable_cores()
    found = []
    for i in range(jobs):
        first, last = len(cores) * i // jobs, len(cores) * (i + 1) // jobs
        own = cores[first:last] or cores[i % max(1, len(cores)) :][:1]
        threads = usable * (i + 1) // jobs - usable * i // jobs
        found.append(Share(tuple(own), max(1, min(threads, limit))))
    return found


def start_process(
    words: Sequence[str], log: IO[bytes], share: Share, folder: Path | None = None
) -> subprocess.Popen:
    """Starts the process of a run. It ends with the thread that calls this.

    Args:
        words: Arguments of the command line `fastdqn`.
        log: File that the output is appended to.
        share: Its cores and threads.
        folder: Working directory. None: that of this process.

    Raises:
        OSError: The process cannot start, such as at the limit of processes.
    """
    cores = ",".join(map(str, share.cores))
    command = [sys.executable, "-P", str(_PROGRAM), str(os.getpid()), cores, *words]
    # A group of its own: Ctrl-C in a terminal reaches this process alone.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        env={**os.environ, **dict.fromkeys(THREADS, str(share.threads))}, process_group=0,
    )  # fmt: skip


class _Running(NamedTuple):
    process: subprocess.Popen
    share: Share


class LocalScheduler:
    """Scheduler of this machine. A process that ends, for any reason, ends all of its jobs.

    Args:
        jobs: Number of jobs in parallel, which divide the usable cores.
    """

    def __init__(self, jobs: int):
        self._free = shares(jobs)
        self._running: dict[str, _Running] = {}
        self._unstarted: list[Ended] = []

    @property
    def free(self) -> int:
        return len(self._free)

    def start(self, job: Job) -> None:
        share = self._free.pop(0)
        try:
            with open(job.log, "ab") as log:
                process = start_process(job.words, log, share)
        except OSError as error:  # the limit of processes, or a full disk
            self._free.insert(0, share)
            self._unstarted.append(Ended(job.key, 1))
            with contextlib.suppress(OSError), open(job.log, "a") as log:
                print(f"error: the process cannot start: {error}", file=log)
            return
        self._running[job.key] = _Running(process, share)

    def wait(self, seconds: float) -> list[Ended]:
        end = time.monotonic() + seconds
        while not (ended := self._take_ended()) and (left := end - time.monotonic()) > 0:
            time.sleep(min(_LOOK, left))
        return ended

    def stop(self) -> None:
        for each in self._running.values():
            each.process.send_signal(signal.SIGTERM)

    def save(self, key: str) -> None:
        self._running[key].process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        for each in self._running.values():
            each.process.kill()
            each.process.wait()
        self._running.clear()

    def _take_ended(self) -> list[Ended]:
        ended, self._unstarted = self._unstarted, []
        for key, each in list(self._running.items()):
            if (code := each.process.poll()) is not None:
                ended.append(Ended(key, code))
                self._free.append(each.share)
                del self._running[key]
        return ended
