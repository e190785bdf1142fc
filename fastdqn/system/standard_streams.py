"""Standard streams: restores them after environments, and reports output that is lost."""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

_NAMES = ("stdout", "stderr")


class _Stream(NamedTuple):
    """A standard stream at program start, and a duplicate of its descriptor or None."""

    stream: Any
    copy: int | None
    identity: tuple[int, int] | None


_kept: dict[str, _Stream] = {}


def occupy() -> None:
    """Opens the null device in place of each closed standard stream.

    Else the next file that is opened would get its descriptor, and output of C code.
    """
    for fd in range(3):
        if _identity(fd) is None:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def show_warnings_plainly() -> None:
    """Prints warnings of this package as one line, without a place in its source."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    before = warnings.formatwarning

    def formatted(message, category, filename, lineno, line=None) -> str:
        if filename.startswith(package):
            return f"warning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted


class Outcome:
    """Holds the exit code of a command. It is not 0 if the output could not be written."""

    code = 0


@contextlib.contextmanager
def checked_output() -> Iterator[Outcome]:
    """Around a command that prints: reports in one line if its output could not be written.

    A broken pipe is not reported: a reader such as `head` closes it when it has enough.
    """
    outcome, missing = Outcome(), _keep()
    try:
        try:
            yield outcome
            restore()
            lost = _refusal()
        except (OSError, ValueError):  # ValueError: it is closed
            restore()
            lost = _refusal("\n")
            if lost is None:  # the error is another file's
                raise
        if lost is not None:
            _report_lost(lost)
            outcome.code = outcome.code or 1
    finally:
        _kept.clear()
        for name in missing:
            getattr(sys, name).close()
            setattr(sys, name, None)


def _report_lost(error: OSError | ValueError) -> None:
    if not isinstance(error, BrokenPipeError):
        why = getattr(error, "strerror", None) or str(error)
        print_error(f"error: standard output cannot be written: {why}")
    with contextlib.suppress(
        OSError, ValueError
    ):  # at exit Python would try again and print an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(text: str) -> None:
    """Prints to standard error. Failures are ignored, since environments may have closed it."""
    with contextlib.suppress(Exception):
        restore()
        print(text, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def restore() -> None:
    """Restores standard output and error after environments closed or replaced them.

    Does nothing outside of checked_output().
    """
    for name, (stream, copy, identity) in _kept.items():
        if copy is None or (
            not stream.closed and _identity(stream.fileno()) == identity
        ):  # a stream without a descriptor, as in tests
            setattr(sys, name, stream)
        else:  # closed, and the descriptor may belong to another file by now
            place = copy if _identity(copy) == identity else os.open(os.devnull, os.O_WRONLY)
            _kept[name] = _Stream(_open(place), place, _identity(place))
            setattr(sys, name, _kept[name].stream)
    if _kept:
        sys.excepthook = sys.excepthook or sys.__excepthook__
        threading.excepthook = threading.excepthook or threading.__excepthook__


def _keep() -> list[str]:
    """Remembers the standard streams. Returns the missing ones, which the null device replaces,
    since libraries and environments do not expect None."""
    missing = [name for name in _NAMES if getattr(sys, name) is None]
    for name in missing:
        setattr(sys, name, _open(os.devnull))
    _kept.clear()
    for name in _NAMES:
        stream, copy, identity = getattr(sys, name), None, None
        with contextlib.suppress(Exception):  # streams of tests have no descriptor
            copy = os.dup(stream.fileno())
            identity = _identity(copy)
        _kept[name] = _Stream(stream, copy, identity)
    return missing


def _open(file: int | str) -> TextIO:
    return open(file, "w", errors="replace", closefd=isinstance(file, str))


def _identity(fd: int) -> tuple[int, int] | None:
    """Returns device and inode of an open descriptor, or None if it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refusal(text: str = "") -> OSError | ValueError | None:
    """Writes text and flushes standard output. Returns the error, or None."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error
    return None
