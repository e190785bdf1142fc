"""Scheduler: starts runs of a study as jobs, and reports which have ended."""

from pathlib import Path
from typing import NamedTuple, Protocol


class Job(NamedTuple):
    """A run to train.

    Attributes:
        key: Name of the run within the study.
        words: Arguments of the command line `fastdqn`, with absolute paths.
        log: File that the output is appended to.
    """

    key: str
    words: tuple[str, ...]
    log: Path


class Ended(NamedTuple):
    """A job that has ended. code is its exit code, or minus the number of a signal."""

    key: str
    code: int


class Scheduler(Protocol):
    """Runs jobs, on this machine or on others that see the same folder.

    A job that is killed at any time leaves a folder that the same job continues.
    """

    @property
    def free(self) -> int:
        """Number of jobs that can start now."""
        ...

    def start(self, job: Job) -> None:
        """Starts a job. Requires free > 0. A job that cannot start ends with code 1."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """Returns the jobs that have ended since the last call. Waits at most this long for one."""
        ...

    def stop(self) -> None:
        """Asks all running jobs to save a checkpoint and end. wait() returns them."""
        ...

    def save(self, key: str) -> None:
        """Asks a running job to write a checkpoint."""
        ...

    def close(self) -> None:
        """Kills the jobs that are still running."""
        ...
