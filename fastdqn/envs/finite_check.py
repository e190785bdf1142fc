"""require_finite(): rejects NaN and infinite values from an environment."""

from typing import Any

import numpy as np

from fastdqn.envs.errors import NonFiniteError
from fastdqn.kernels.jit import kernel


def require_finite(
    what: str, values: np.ndarray, lanes: np.ndarray, steps: np.ndarray, given: Any = None
) -> None:
    """Raises NonFiniteError if a value is NaN or infinite; names sub-environment and step.

    Args:
        what: Name of the values.
        values: float32[M, *].
        lanes: int64[M], the sub-environment of each row.
        steps: int64[N], steps of each sub-environment so far.
        given: The values before conversion to float32, if available.
    """
    flat = values.reshape(-1)
    bad = first_nonfinite(flat)
    if bad < 0:
        return
    lane, number, why = lanes[bad // (flat.size // len(values))], flat[bad], ""
    if isinstance(given, np.ndarray) and given.size == flat.size:
        number = given.reshape(-1)[bad]
        if np.isfinite(number):
            why = ", which exceeds the largest float32, 3.4e+38: scale it in the environment"
    raise NonFiniteError(f"env {lane}, step {steps[lane]}: {what} is {number}{why}")


@kernel
def first_nonfinite(flat):
    """Returns the index of the first NaN or infinity in flat, float32[L], or -1."""
    for i in range(len(flat)):
        if not np.isfinite(flat[i]):
            return i
    return -1
