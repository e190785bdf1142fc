"""Precision of matrix products and the default dtype."""

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


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Creates tensors as float32 within the context, whatever torch.set_default_dtype() says."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
