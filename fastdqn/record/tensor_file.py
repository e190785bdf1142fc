"""Opening safetensors files: regular files, no larger than what memory can hold."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors

from fastdqn.memory import available_bytes
from fastdqn.record.place import Where, open_file

# Bytes that are always read: free memory is an estimate, which may be 0. Ours, untuned.
_SMALL = 256 << 20


@contextlib.contextmanager
def open_tensors(path: Where) -> Iterator[Any]:
    """A safetensors file, opened for NumPy; a path of the user's may be a symbolic link.

    Raises OSError whose reason is a phrase, and what safetensors raises.
    """
    fd, info = open_file(path, os.O_RDONLY, follow=isinstance(path, Path))
    try:
        room = available_bytes()
        if room is not None and info.st_size > max(room, _SMALL):
            problem = f"it has {info.st_size:,} bytes, and {room:,} of memory are free"
            raise OSError(errno.EFBIG, problem, str(path))
        # By its descriptor: the path may lead to another file by now.
        with safetensors.safe_open(f"/dev/fd/{fd}", "np") as file:
            yield file
    finally:
        os.close(fd)
