"""Opens safetensors files: regular files that fit into free memory."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors

from fastdqn.files.open_folder import Where, open_file
from fastdqn.system.available_memory import available_bytes

# Files up to this size are always read: free memory is an estimate, which may be 0.
_SMALL = 256 << 20


def lack_of_memory(size: int) -> str | None:
    """Returns why a file of size bytes is too large to read, or None.

    A sparse file may have any size, and reading it could exhaust the memory.
    """
    if size <= _SMALL:
        return None
    room = available_bytes()
    if room is None or size <= room:
        return None
    return f"it has {size:,} bytes, but only {room:,} bytes of memory are free"


@contextlib.contextmanager
def open_tensors(path: Where) -> Iterator[Any]:
    """Opens a safetensors file for NumPy. A Path may be a symbolic link, a Place may not.

    Raises:
        OSError: The file cannot be opened. strerror says why.
        SafetensorError: The file is damaged.
    """
    fd, info = open_file(path, os.O_RDONLY, follow=isinstance(path, Path))
    try:
        if problem := lack_of_memory(info.st_size):
            raise OSError(errno.EFBIG, problem, str(path))
        # By its file descriptor: the file at this path may have been replaced.
        with safetensors.safe_open(f"/dev/fd/{fd}", "np") as file:
            yield file
    finally:
        os.close(fd)
