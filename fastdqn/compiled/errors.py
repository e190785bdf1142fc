"""compile_error(): what Numba cannot compile, in one line."""

import itertools
import re

from numba.core.errors import NumbaError


def compile_error(error: Exception) -> str:
    """Returns the first reason that Numba gives with a place, which is the user's function."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if not _NOISE.match(line)), "")
    if not isinstance(error, NumbaError):
        reason = f"{type(error).__name__}: {reason}"
    where = ""
    for before, line in itertools.pairwise(lines):
        if (place := _PLACE.match(line)) and not _NOISE.match(before):
            reason, where = before, f" ({place[1]}, line {place[2]})"
            break
    return f"a function of the environment cannot be compiled: {reason}{where}"


_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
_NOISE = re.compile(
    r"File |def |<source|During: |Failed in |\^|- Resolution|- Of which|Overload|There are|"
    r"This error|- argument|Enable|\* |>>>|Rejected|self\.|raised from|\.\.\."
)
