"""memory_errors(): converts out-of-memory errors to one line with a remedy."""

import contextlib
from collections.abc import Iterator

import torch


class OutOfMemoryError(RuntimeError):
    """The device or the machine is out of memory; one line with a remedy."""


@contextlib.contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Converts an out-of-memory error within the context to an OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        where = "the device" if device == "auto" else device
        reason = ". ".join(" ".join(str(error).split()).split(". ")[:2])
        raise OutOfMemoryError(
            f"{where} is out of memory: {reason}. Use a smaller --batch-size or network, or "
            "--device cpu"
        ) from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"this machine is out of memory ({error}). Use a smaller --buffer-size"
        ) from error
