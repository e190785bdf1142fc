"""RunQueue: trains the missing runs of a study, and repeats a failed one once."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fastdqn.checkpoints.checked_read import read_latest
from fastdqn.checkpoints.format import CheckpointError, step_name, steps_of
from fastdqn.checkpoints.loader import checkpoint_names
from fastdqn.study.run_progress import RunProgress, Status
from fastdqn.study.scheduler import Ended, Job, Scheduler
from fastdqn.study.study_folder import Run, summary_of
from fastdqn.text import printable

# Starts of a run within one call of the command, the first included.
ATTEMPTS = 2
# Seconds between two looks at the files of the running runs.
_LOOK = 0.5
_TAIL = 1 << 14  # bytes at the end of a log that are searched for its last error
_LONGEST = 300  # maximum characters of an error


class State(StrEnum):
    """State of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass
class Entry:
    """A run of the queue.

    Attributes:
        words: Arguments of the command line that trains it.
        attempts: How often it was started.
        origin: Where a run that was begun before continues, or an empty string.
        error: Last error line of a failed attempt, or an empty string.
        log_start: Size of its log before this attempt.
        started: Time of this attempt, as in the modification times of files.
    """

    run: Run
    words: tuple[str, ...]
    progress: RunProgress
    state: State = State.WAITING
    attempts: int = 0
    origin: str = ""
    error: str = ""
    status: Status = field(default_factory=Status)
    log_start: int = 0
    started: float = 0.0


class Display(Protocol):
    def changed(self, entry: Entry) -> None:
        """A run has another state."""
        ...

    def show(self, entries: list[Entry], final: bool = False) -> None:
        """Draws the progress of all runs."""
        ...


class RunQueue:
    """Runs that are not finished, in order, as many at a time as the scheduler has room for."""

    def __init__(self, entries: list[Entry], scheduler: Scheduler, display: Display):
        self.entries, self._scheduler, self._display = entries, scheduler, display
        self._by_name = {entry.run.name: entry for entry in entries}
        for entry in entries:
            if summary_of(entry.run.folder) is not None:
                entry.state, entry.status = State.FINISHED, entry.progress.read()

    def train(
        self,
        stop: Callable[[], bool] = lambda: False,
        save: Callable[[], bool] = lambda: False,
    ) -> None:
        """Trains until every run has finished or failed, or until stop() and all have ended.

        Args:
            stop: Whether the study should stop, which lets each running run save a checkpoint.
            save: Whether the running runs should write a checkpoint now.
        """
        stopping = False
        while True:
            if not stopping and stop():
                stopping = True
                self._scheduler.stop()
                for entry in self._with(State.RUNNING):
                    self._set(entry, State.STOPPING)
            waiting = [] if stopping else self._with(State.WAITING)
            for entry in waiting[: self._scheduler.free]:
                self._start(entry)
            running = [*self._with(State.RUNNING), *self._with(State.STOPPING)]
            if not running:
                break
            if save():
                self._save()
            for each in self._scheduler.wait(_LOOK):
                self._end(self._by_name[each.key], each)
            for entry in self._with(State.RUNNING):
                entry.status = entry.progress.read()
            self._display.show(self.entries)
        self._display.show(self.entries, final=True)

    def count(self, state: State) -> int:
        """Returns the number of runs in a state."""
        return len(self._with(state))

    def failed(self) -> list[Entry]:
        """Returns the runs that failed in all attempts."""
        return self._with(State.FAILED)

    def _with(self, state: State) -> list[Entry]:
        return [entry for entry in self.entries if entry.state is state]

    def _start(self, entry: Entry) -> None:
        entry.attempts += 1
        entry.origin = _origin(entry.run.folder)
        entry.log_start, entry.started = _size(entry.run.log), time.time()
        self._set(entry, State.RUNNING)
        self._scheduler.start(Job(entry.run.name, entry.words, entry.run.log))

    def _save(self) -> None:
        """Asks runs that have begun for a checkpoint. The signal would end a starting process."""
        for entry in self._with(State.RUNNING):
            if entry.progress.written > entry.started:
                self._scheduler.save(entry.run.name)

    def _end(self, entry: Entry, ended: Ended) -> None:
        entry.status = entry.progress.read()
        if ended.code == 0 and summary_of(entry.run.folder) is not None:
            entry.error = ""
            self._set(entry, State.FINISHED)
        elif entry.state is State.STOPPING:
            self._set(entry, State.INTERRUPTED)
        else:
            entry.error = _last_error(entry.run.log, entry.log_start) or _code(ended.code)
            again = entry.attempts < ATTEMPTS
            self._set(entry, State.WAITING if again else State.FAILED)
        if _size(entry.run.log) == 0:
            entry.run.log.unlink(missing_ok=True)

    def _set(self, entry: Entry, state: State) -> None:
        entry.state = state
        self._display.changed(entry)


def _origin(run: Path) -> str:
    """Returns where a run continues, as `train --resume auto` does, or nothing for a new run."""
    if not (run / "config.json").exists():
        return ""
    try:
        name = read_latest(run)
    except FileNotFoundError:
        name = (checkpoint_names(run) or [step_name(0)])[-1]
    except CheckpointError:
        return ""  # the run fails, and its error is shown
    steps = steps_of(name)
    return f"resumes from step {steps:,}" if steps else "begins again: no checkpoint after step 0"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _last_error(log: Path, start: int) -> str:
    """Returns the last line of a log that begins with error:, else its last line, after start."""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, _size(log) - _TAIL))
            lines = [line.strip() for line in file.read(_TAIL).decode(errors="replace").split("\n")]
    except OSError:
        return ""
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return printable(errors[-1].removeprefix("error: "))[:_LONGEST] if errors else ""


def _code(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
