"""Output: a command's standard output arrives, or its exit code says that it did not."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

_NAMES = ("stdout", "stderr")


class _Stream(NamedTuple):
    """A standard stream as the program found it; copy is a descriptor of the same file, or None."""

    stream: Any
    copy: int | None
    identity: tuple[int, int] | None


_kept: dict[str, _Stream] = {}


def occupy() -> None:
    """Open the null device in place of a standard stream that is closed: the next file that is
    opened would get its number, and what C code prints there."""
    for fd in range(3):
        if _identity(fd) is None:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


class Outcome:
    """code  exit code of a command; not 0 where its output could not be written."""

    code = 0


@contextlib.contextmanager
def checked_output() -> Iterator[Outcome]:
    """Around a command that prints: reports in one line where its output could not be written.

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
        tell(f"error: standard output cannot be written: {why}")
    with contextlib.suppress(OSError, ValueError):  # Python would write it again at exit, and fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print to standard error, if there is one that takes it: code of anyone's may have closed or
    replaced it, and what is told here must not end the program in another way."""
    with contextlib.suppress(Exception):
        restore()
        print(text, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def restore() -> None:
    """Standard output and error as the program found them, whatever environments did to them.

    Does nothing outside of checked_output().
    """
    for name, (stream, copy, identity) in _kept.items():
        if copy is None or (
            not stream.closed and _identity(stream.fileno()) == identity
        ):  # one of a test's, which has no descriptor
            setattr(sys, name, stream)
        else:  # closed; the number may be another file's by now
            place = copy if _identity(copy) == identity else os.open(os.devnull, os.O_WRONLY)
            _kept[name] = _Stream(_open(place), place, _identity(place))
            setattr(sys, name, _kept[name].stream)
    if _kept:
        sys.excepthook = sys.excepthook or sys.__excepthook__
        threading.excepthook = threading.excepthook or threading.__excepthook__


def _keep() -> list[str]:
    """Remember the standard streams; returns those that are missing, for which the null device
    stands in: neither this program's libraries nor anyone's environments expect None."""
    missing = [name for name in _NAMES if getattr(sys, name) is None]
    for name in missing:
        setattr(sys, name, _open(os.devnull))
    _kept.clear()
    for name in _NAMES:
        stream, copy, identity = getattr(sys, name), None, None
        with contextlib.suppress(Exception):  # one of a test's has no descriptor
            copy = os.dup(stream.fileno())
            identity = _identity(copy)
        _kept[name] = _Stream(stream, copy, identity)
    return missing


def _open(file: int | str) -> TextIO:
    return open(file, "w", errors="replace", closefd=isinstance(file, str))


def _identity(fd: int) -> tuple[int, int] | None:
    """What tells the open file of a descriptor from others; None where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refusal(text: str = "") -> OSError | ValueError | None:
    """Why standard output takes neither what waits to be written nor text, or None."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error
    return None
