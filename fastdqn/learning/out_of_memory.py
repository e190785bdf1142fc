"""Device memory: what is said where a device, or the machine, has none left."""

import contextlib
from collections.abc import Iterator

import torch


class OutOfMemoryError(RuntimeError):
    """There was not memory enough: one line, where and what may help."""


@contextlib.contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Within, a lack of memory becomes an OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        where = "the device" if device == "auto" else device
        said = ". ".join(" ".join(str(error).split()).split(". ")[:2])
        raise OutOfMemoryError(
            f"{where} has no memory left: {said}; a smaller --batch-size or network may help, or "
            "--device cpu"
        ) from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"this machine has no memory left ({error}); a smaller --buffer-size may help"
        ) from error
