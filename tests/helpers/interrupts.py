"""Exceptions of signal handlers, at every place in turn."""

import sys
from collections.abc import Callable, Iterator
from typing import Any


class Interrupt(Exception):
    """Stands for an exception of a signal handler."""


def interrupted(function: Callable[[], Any], files: tuple[str, ...]) -> Iterator[int]:
    """Calls a function again and again; yields after each call that Interrupt has ended.

    Interrupt is raised at the next place each time, until a call returns. Places are those where
    Python runs signal handlers: where a function begins, and after a call of compiled code. Only
    those in files with these ends of their names count.
    """
    place = 0
    while _ends_at(place, function, files):
        yield place
        place += 1


def _ends_at(place: int, function: Callable[[], Any], files: tuple[str, ...]) -> bool:
    left = place

    def profile(frame, kind, _):
        nonlocal left
        if frame.f_code.co_filename.endswith(files) and kind in ("call", "c_return"):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise Interrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    except Interrupt:
        return True
    finally:
        sys.setprofile(before)
    return False
