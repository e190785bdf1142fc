"""Opening safetensors files: regular files, no larger than what memory can hold."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors

from fastdqn.files.open_folder import Where, open_file
from fastdqn.system.available_memory import available_bytes

# Bytes that are always read: free memory is an estimate, which may be 0. Ours, untuned.
_SMALL = 256 << 20


def lack_of_memory(size: int) -> str | None:
    """Why a file of so many bytes is not read as a whole, or None. Sparse files may be of any size:
    to find out by reading could end the process, or others."""
    if size <= _SMALL:
        return None
    room = available_bytes()
    if room is None or size <= room:
        return None
    return f"it has {size:,} bytes, and {room:,} of memory are free"


@contextlib.contextmanager
def open_tensors(path: Where) -> Iterator[Any]:
    """A safetensors file, opened for NumPy; a path of the user's may be a symbolic link.

    Raises OSError whose reason is a phrase, and what safetensors raises.
    """
    fd, info = open_file(path, os.O_RDONLY, follow=isinstance(path, Path))
    try:
        if problem := lack_of_memory(info.st_size):
            raise OSError(errno.EFBIG, problem, str(path))
        # By its descriptor: the path may lead to another file by now.
        with safetensors.safe_open(f"/dev/fd/{fd}", "np") as file:
            yield file
    finally:
        os.close(fd)
