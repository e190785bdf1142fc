"""How an update is run: as it is written, or compiled."""

from collections.abc import Callable
from typing import Any

import torch

CAPTURES = ("eager", "compile")


def capture(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Wrap function, whose arguments keep shape, dtype and address, by mode.

    mode  eager: itself · compile: torch.compile, at the first call; needs a C++ compiler on CPU
    Raises ValueError for another mode.
    """
    if mode == "eager":
        return function
    if mode == "compile":
        return torch.compile(function, dynamic=False)
    raise ValueError(f"capture is {mode!r}: it must be one of {', '.join(CAPTURES)}")
