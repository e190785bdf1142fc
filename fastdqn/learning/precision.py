"""Precision of matrix products, denormal numbers and the default dtype."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32, with 10-bit mantissas, for float32 products in the whole process."""
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


# Of float64. In the mode of DenormalsAsZero, comparisons read it as zero.
_SMALLEST = 5e-324


class DenormalsAsZero:
    """A context in which this thread computes with zero in place of denormal numbers.

    An operation on a denormal number takes about a hundred cycles more on many processors. Adam's
    averages for a unit that is never active decay until they are denormal, and then stay so.
    """

    def __enter__(self) -> None:
        self._before = _SMALLEST == 0.0
        torch.set_flush_denormal(True)

    def __exit__(self, *error: object) -> None:
        torch.set_flush_denormal(self._before)


def update_arithmetic(
    device: torch.device, *, uses_torch: bool
) -> contextlib.AbstractContextManager[None]:
    """Returns the context of updates on a device: on a CPU, denormal numbers are zero.

    The mode is one of each thread, and threads of torch have that of the thread which started them.
    So if updates use several of them, their bits would depend on when they were started.
    """
    if device.type != "cpu" or (uses_torch and torch.get_num_threads() > 1):
        return contextlib.nullcontext()
    return DenormalsAsZero()


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Creates tensors as float32 within the context, whatever torch.set_default_dtype() says."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
