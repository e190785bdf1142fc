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


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Creates tensors as float32 within the context, whatever torch.set_default_dtype() says."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
