"""How the pieces of an update are run: as they are written, or compiled."""

from collections.abc import Callable
from typing import Any

import torch

Capture = Callable[[Callable[..., Any]], Callable[..., Any]]


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself."""
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, for the shapes given then; needs a C++ compiler on the CPU."""
    return torch.compile(function, dynamic=False)
