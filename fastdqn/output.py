"""Output: a command's standard output arrives, or its exit code says that it did not."""

import contextlib
import os
import sys
from collections.abc import Callable


def delivered(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code, and where its output could not be written one that is
    not 0, told in a line.

    Of a pipe whose reader has gone nothing is told: that is how a reader has enough.
    """
    code = 0
    try:
        code = command()
        lost = _refusal()
    except OSError:
        lost = _refusal("\n")
        if lost is None:  # of another file
            raise
    if lost is None:
        return code
    with contextlib.suppress(OSError):  # the two may be one terminal, which is gone
        if not isinstance(lost, BrokenPipeError):
            print(f"error: standard output cannot be written: {lost.strerror}", file=sys.stderr)
    with contextlib.suppress(OSError):  # what waits would be tried again, and told, at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code or 1


def _refusal(text: str = "") -> OSError | None:
    """Why standard output takes neither what waits to be written nor text, or None."""
    if sys.stdout is None or sys.stdout.closed:
        return None
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        return error
    return None
