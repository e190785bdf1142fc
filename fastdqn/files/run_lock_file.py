"""Parses the lock file RUN/lock and checks whether its process is alive."""

import fcntl
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from fastdqn.system.process_identity import is_alive, machine, pid_namespace

# Seconds without a renewal after which the lock of another machine is stale.
STALE_SECONDS = 60.0
_MAX_BYTES = 4096
_FIELDS = {"pid", "start", "host", "machine", "namespace", "token"}


def holder(run: Path) -> tuple[str, bool] | None:
    """Returns (description of the lock, whether the run may be in use), or None without a lock.

    Nothing is changed.
    """
    path = run / "lock"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}", True
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return f"{path} is not a regular file", True
        guarded, found = guard(fd, shared=True), read_holder(fd)
    finally:
        os.close(fd)
    who = "a process" if found is None else f"process {found['pid']}"
    if found is not None and found["machine"] != machine():
        who += f" on {found['host']!r}"
    gone = False if guarded is False else is_gone(found, guarded)
    age = time.time() - info.st_mtime
    if gone or (gone is None and age >= STALE_SECONDS):
        return f"left by {who}, which has ended", False
    if gone is None:
        return f"held by {who}, which last renewed it {max(0, age):.0f} s ago", True
    return f"held by {who}, which is running", True


def guard(fd: int, shared: bool = False) -> bool | None:
    """Takes the kernel lock until the file is closed. Returns whether that succeeded.

    Returns None if the file system has no locks.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return None
    return True


def read_holder(fd: int) -> dict[str, Any] | None:
    """Returns the process that the lock file describes, or None if it is not valid."""
    try:
        found = json.loads(os.pread(fd, _MAX_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.keys() != _FIELDS:
        return None
    pid, start = found["pid"], found["start"]
    if type(pid) is not int or not 0 < pid < 1 << 31:
        return None
    if not all(isinstance(found[name], str) for name in ("host", "machine", "namespace", "token")):
        return None
    return found if start is None or type(start) is int else None


def is_gone(found: dict[str, Any] | None, guarded: bool | None) -> bool | None:
    """Returns whether the process of a lock has ended, or None if that is unknown.

    Args:
        found: The process, as read by read_holder().
        guarded: Whether this process got the kernel lock. None: there are no locks.
    """
    if found is None:  # it ended before it wrote the file
        return guarded
    if found["machine"] != machine():
        return None
    if guarded or found["namespace"] != pid_namespace():
        return guarded
    return not is_alive(found["pid"], found["start"])
