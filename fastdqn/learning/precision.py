"""Precision of matrix products, denormal numbers and the default dtype."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")


@contextlib.contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32, with 10-bit mantissas, for float32 products in the whole process.

    Only `fp32_precision` is read and set: reading the older `allow_tf32` fails once it was set.
    """
    cudnn: Any = torch.backends.cudnn
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


# Of float64. While denormal numbers are zero, comparisons read it as zero.
_SMALLEST = 5e-324


def denormals_as_zero(function: Callable[..., _Result], *args: Any) -> _Result:
    """Calls a function, in which this thread computes with zero in place of denormal numbers.

    An operation on a denormal number takes about a hundred cycles more on many processors. Adam's
    averages for a unit that is never active decay until they are denormal, and then stay so.
    """
    before = _SMALLEST == 0.0
    # Not a context manager: a signal handler may raise where its methods begin and after their
    # calls, and the mode would stay.
    try:
        torch.set_flush_denormal(True)
        return function(*args)
    finally:
        torch.set_flush_denormal(before)


def with_denormals(function: Callable[..., _Result], *args: Any) -> _Result:
    """Calls a function in the current mode."""
    return function(*args)


def update_arithmetic(device: torch.device, *, uses_torch: bool) -> Callable[..., Any]:
    """Returns what calls updates on a device: on a CPU, denormal numbers are zero.

    The mode is one of each thread, and threads of torch have that of the thread which started them.
    So if updates use several of them, their bits would depend on when they were started.
    """
    if device.type != "cpu" or (uses_torch and torch.get_num_threads() > 1):
        return with_denormals
    return denormals_as_zero


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Creates tensors as float32 within the context, whatever torch.set_default_dtype() says."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
