"""Console displays: a live panel in a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from fastdqn.text import rounded

# Seconds between updates of the panel, and between plain lines.
_REDRAW = 0.1
_PLAIN = 2.0
# Maximum fraction of the elapsed time for drawing: on a busy machine one update of the panel takes
# a tenth of a second. Not tuned.
_DRAWING = 0.05
# Maximum width of the panel in columns, and the width below which its bars are short.
_WIDEST, _NARROW = 100, 90
_DAY = 86_400  # seconds


class Display(Protocol):
    def show(self, status: dict, final: bool = False) -> None:
        """Draws the newest status, see metric_rows.status()."""
        ...

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        ...

    def close(self) -> None: ...


def make_display(title: str, quiet: bool) -> Display:
    """Returns a panel if standard output is a terminal, else plain lines, or nothing if quiet."""
    if quiet:
        return Silent()
    if (show := _notebook_display()) is not None:
        return Unfailing(NotebookLine(show))
    console = Console(highlight=False, soft_wrap=True)
    # Some CI services provide a terminal, but keep every redraw in the log.
    live = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
    return Unfailing(LivePanel(console, title) if live else PlainLines(console))


def run_display(quiet: bool) -> Callable[[Any], Display]:
    """Returns a function that creates the display of a run from its config."""
    return lambda config: make_display(f"fastdqn  {config.env_id}  {config.preset}", quiet)


class Unfailing:
    """Wraps a display and ignores its errors: a broken pipe or a full disk does not end a run.

    SystemExit is ignored, too: rich exits the program if the pipe is broken.
    """

    def __init__(self, display: Display):
        self._display = display

    def show(self, status: dict, final: bool = False) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self._display.show(status, final)

    def say(self, line: str) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self._display.say(line)

    def close(self) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self._display.close()


class Silent:
    """Display that prints nothing."""

    def show(self, status: dict, final: bool = False) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


class PlainLines:
    """Display that prints a line of status at most every two seconds, and at the end."""

    def __init__(self, console: Console):
        self._console, self._last, self._steps = console, -_PLAIN, -1

    def show(self, status: dict, final: bool = False) -> None:
        now = time.monotonic()
        if status["steps"] == self._steps:  # the final status of a step that was printed
            return
        if final or now - self._last >= _PLAIN:
            self._last, self._steps = now, status["steps"]
            self._console.print(_status_line(status), markup=False)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def close(self) -> None:
        pass


def _status_line(status: dict) -> str:
    env = "" if status["env_rate"] is None else f"env {status['env_rate']:,.0f}/s  "
    return (
        f"step {status['steps']:>9,}  return {_mean_of(status)}  "
        f"epsilon {status['epsilon']:.3f}  {status['fps']:,.0f} steps/s  "
        f"{env}learner {status['learner_rate']:,.0f}/s  "
        f"left {duration_text(status['seconds_left'])}"
    )


def _notebook_display() -> Callable[..., Any] | None:
    """Returns IPython's display() in the kernel of a notebook, else None. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    if "ZMQInteractiveShell" not in [kind.__name__ for kind in type(shell).__mro__]:
        return None  # Colab's shell is a subclass
    return getattr(getattr(ipython, "display", None), "display", None)


class NotebookLine:
    """Display that redraws one line below the cell of a notebook.

    Args:
        show: IPython's display(), whose handle replaces what it shows.
    """

    def __init__(self, show: Callable[..., Any]):
        self._show, self._handle, self._next = show, None, 0.0

    def show(self, status: dict, final: bool = False) -> None:
        now = time.monotonic()
        if not final and now < self._next:
            return
        self._next = now + _REDRAW
        data = {"text/plain": _status_line(status)}
        if self._handle is None:
            self._handle = self._show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def say(self, line: str) -> None:
        print(line, flush=True)
        self._handle = None  # the next status is shown below the line

    def close(self) -> None:
        pass


class LivePanel:
    """Display that redraws a panel: return, epsilon, rates and the share of each phase."""

    def __init__(self, console: Console, title: str):
        self._title, self._next, self._console = title, 0.0, console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, status: dict, final: bool = False) -> None:
        now = time.monotonic()
        if final or now >= self._next:
            self._live.update(self._panel(status), refresh=True)
            drawn = time.monotonic()
            self._next = drawn + max(_REDRAW, (drawn - now) * (1 / _DRAWING - 1))

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False)

    def close(self) -> None:
        self._live.stop()

    def _panel(self, status: dict) -> Panel:
        left = Table.grid(padding=(0, 2))
        for label, text in (
            ("return", _mean_of(status)),
            ("evaluation", f"{number_text(status['eval_return'])}  (greedy)"),
            ("epsilon", f"{status['epsilon']:.3f}"),
            ("steps", f"{status['steps']:,}  in {status['episodes']:,} episodes"),
            ("updates", f"{status['updates']:,}  loss {number_text(status['loss'])}"),
            ("speed", f"{status['fps']:,.0f} steps/s"),
            ("environment", f"{_whole(status['env_rate'])} steps/s alone"),
            ("learner", f"{status['learner_rate']:,.0f} updates/s alone"),
            ("time left", duration_text(status["seconds_left"])),
        ):
            left.add_row(label, text)
        narrow = self._console.width < _NARROW
        shares = Table.grid(padding=(0, 1))
        for name, share in sorted(status["shares"].items(), key=lambda item: -item[1]):
            if share >= 0.005:
                shares.add_row(
                    name, ProgressBar(1.0, share, width=8 if narrow else 20), f"{share:4.0%}"
                )
        both = Table.grid(padding=(0, 1 if narrow else 4))
        both.add_row(left, shares)
        bar = ProgressBar(1.0, status["fraction"], width=None)
        whole = Table.grid(expand=True)
        whole.add_row(both)
        whole.add_row(bar)
        width = min(self._console.width, _WIDEST)
        return Panel(whole, title=self._title, title_align="left", width=width)


def _mean_of(status: dict) -> str:
    """Returns the mean return with the number of episodes that it is of."""
    if status["return"] is None:
        return "-"
    return f"{number_text(status['return'])} (mean of {status['averaged']})"


def _whole(value: float | None) -> str:
    """Returns a number without decimals, or a dash for None."""
    return "-" if value is None else f"{value:,.0f}"


def number_text(value: float | None) -> str:
    """Returns a number with four significant digits, or a dash for None."""
    return "-" if value is None else rounded(value)


def duration_text(seconds: float | None) -> str:
    """Returns seconds as M:SS or H:MM:SS, from 100 hours on as days.

    A dash for None and from 1,000 days on, which is not an estimate but a run that hardly moves.
    """
    if seconds is None or seconds >= 1_000 * _DAY:
        return "-"
    if seconds >= 100 * 3_600:
        return f"{seconds / _DAY:.0f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
