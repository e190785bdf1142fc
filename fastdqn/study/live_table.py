"""Displays of a running study: a table that is redrawn in a terminal, else lines."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastdqn.logging.console import duration_text, number_text
from fastdqn.study.run_queue import ATTEMPTS, Display, Entry, State
from fastdqn.text import printable

# Maximum fraction of the elapsed time for drawing. Not tuned.
_DRAWING = 0.05
# Lines of a terminal beside the rows of the table.
_AROUND = 8
# Runs in these states have a row if there is no room for all.
_ACTIVE = (State.RUNNING, State.STOPPING, State.FAILED)


@contextlib.contextmanager
def study_display(folder: Path, quiet: bool) -> Iterator[Display]:
    """Yields a table if standard output is a terminal, else lines, or nothing if quiet."""
    console = Console(highlight=False, soft_wrap=True)
    if quiet:
        yield Silent()
    elif console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI"):
        display = LiveTable(console, str(folder))
        try:
            yield display
        finally:
            display.close()
    else:
        yield StateLines(console)


class Silent:
    """Display that prints nothing."""

    def changed(self, entry: Entry) -> None:
        pass

    def show(self, entries: list[Entry], final: bool = False) -> None:
        pass


class StateLines:
    """Display that prints a line when a run changes its state."""

    def __init__(self, console: Console):
        self._console = console

    def changed(self, entry: Entry) -> None:
        # A broken pipe does not end a study. rich exits the program then.
        with contextlib.suppress(Exception, SystemExit):
            self._console.print(f"{entry.run.name}: {_state(entry)}", markup=False)

    def show(self, entries: list[Entry], final: bool = False) -> None:
        pass


class LiveTable:
    """Display that redraws a table with a row for each run."""

    def __init__(self, console: Console, title: str):
        self._title, self._console, self._next = title, console, 0.0
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def changed(self, entry: Entry) -> None:
        if entry.error or (entry.origin and entry.state is State.RUNNING):  # above the table
            with contextlib.suppress(Exception, SystemExit):
                self._live.console.print(f"{entry.run.name}: {_state(entry)}", markup=False)

    def show(self, entries: list[Entry], final: bool = False) -> None:
        now = time.monotonic()
        if not final and now < self._next:
            return
        with contextlib.suppress(Exception, SystemExit):
            most = None if final else self._console.height - _AROUND
            self._live.update(progress_table(self._title, entries, most), refresh=True)
            drawn = time.monotonic()
            self._next = drawn + (drawn - now) * (1 / _DRAWING - 1)

    def close(self) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self._live.stop()


def progress_table(title: str, entries: list[Entry], most: int | None = None) -> Table:
    """Returns a table with a row for each run. If they exceed most, only active and failed runs."""
    counts = {state: sum(entry.state is state for entry in entries) for state in State}
    caption = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    shown = entries
    if most is not None and len(entries) > most:
        shown = [entry for entry in entries if entry.state in _ACTIVE][: max(1, most)]
    table = Table(
        title=Text(printable(title)), title_justify="left", caption=caption, caption_justify="left"
    )
    table.add_column("variant", overflow="ellipsis", no_wrap=True)
    table.add_column("seed", justify="right")
    table.add_column("state", no_wrap=True)
    for name in ("steps", "return", "evaluation", "steps/s", "time left"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in shown:
        table.add_row(*_row(entry))
    return table


def _row(entry: Entry) -> list[str | Text]:
    status, running = entry.status, entry.state is State.RUNNING
    return [
        Text(printable(entry.run.variant.label)),
        str(entry.run.seed),
        str(entry.state) + (" (again)" if running and entry.attempts > 1 else ""),
        f"{status.steps:,}  {status.share:4.0%}" if status.steps else "-",
        number_text(status.recent),
        number_text(status.evaluation),
        f"{status.rate:,.0f}" if status.rate is not None else "-",
        duration_text(status.seconds_left) if running else "-",
    ]


def _state(entry: Entry) -> str:
    if entry.state is State.WAITING:
        return f"failed, and is started again: {entry.error}"
    if entry.state is State.FAILED:
        return f"failed in {ATTEMPTS} attempts: {entry.error}"
    if entry.state is State.RUNNING:
        again = "running again" if entry.attempts > 1 else "running"
        return f"{again}, {entry.origin}" if entry.origin else again
    if entry.state is State.FINISHED:
        evaluation = number_text(entry.status.evaluation)
        return f"finished after {entry.status.steps:,} steps, last evaluation {evaluation}"
    return str(entry.state)
