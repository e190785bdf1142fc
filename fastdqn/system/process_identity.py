"""Identifies a process: machine, PID namespace and start time."""

import os
import platform

_MAX_BYTES = 4096


def machine() -> str:
    """What tells a running kernel from all others: its locks reach as far as it does.

    Containers on one machine share it, whatever their host names; a restart makes another.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return platform.node()


def pid_namespace() -> str:
    """What tells apart the processes of containers on one machine, whose pids may be the same."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_alive(pid: int, start: int | None) -> bool:
    """Whether this very process runs; where start times are unknown, whether the pid does."""
    now = _stat(pid)
    if now is not None:
        return now[0] not in "ZX" and (start is None or now[1] == start)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def start_of(pid: int) -> int | None:
    """When a process started, in ticks after boot; None where that is unknown."""
    now = _stat(pid)
    return None if now is None else now[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time in ticks after boot, from /proc; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before the last parenthesis may hold anything.
            fields = file.read(_MAX_BYTES).rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
