"""Finite: a NaN or an infinity of an environment's is told by lane and step."""

import numpy as np

from fastdqn.acting.failures import NonFiniteError
from fastdqn.kernels import kernel


def require_finite(what: str, values: np.ndarray, lanes: np.ndarray, steps: np.ndarray) -> None:
    """Raises NonFiniteError where values [M, *] float32 of lanes [M] are not all numbers.

    steps [N]  of each lane so far
    """
    flat = values.reshape(-1)
    bad = first_nonfinite(flat)
    if bad >= 0:
        lane = lanes[bad // (flat.size // len(values))]
        raise NonFiniteError(f"lane {lane}, step {steps[lane]}: {what} is {flat[bad]}")


@kernel
def first_nonfinite(flat):
    """Index of the first NaN or infinity in flat [L] float32, or -1."""
    for i in range(len(flat)):
        if not np.isfinite(flat[i]):
            return i
    return -1
