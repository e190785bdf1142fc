"""Finite: a NaN or an infinity that an environment gives is reported by lane and step."""

from typing import Any

import numpy as np

from fastdqn.envs.errors import NonFiniteError
from fastdqn.kernels.jit import kernel


def require_finite(
    what: str, values: np.ndarray, lanes: np.ndarray, steps: np.ndarray, given: Any = None
) -> None:
    """Raises NonFiniteError where values [M, *] float32 of lanes [M] are not all numbers.

    steps [N]  of each lane so far
    given  the values before they were float32, if they are at hand
    """
    flat = values.reshape(-1)
    bad = first_nonfinite(flat)
    if bad < 0:
        return
    lane, number, why = lanes[bad // (flat.size // len(values))], flat[bad], ""
    if isinstance(given, np.ndarray) and given.size == flat.size:
        number = given.reshape(-1)[bad]
        if np.isfinite(number):
            why = ", beyond the largest number of float32, 3.4e+38: scale it"
    raise NonFiniteError(f"lane {lane}, step {steps[lane]}: {what} is {number}{why}")


@kernel
def first_nonfinite(flat):
    """Index of the first NaN or infinity in flat [L] float32, or -1."""
    for i in range(len(flat)):
        if not np.isfinite(flat[i]):
            return i
    return -1
