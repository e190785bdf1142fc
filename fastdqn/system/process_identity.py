"""Identity of a process: machine, PID namespace and start time."""

import os
import platform

_MAX_BYTES = 4096


def machine() -> str:
    """Returns an identifier of the running kernel, which is the scope of its file locks.

    Containers on one machine share it. A reboot changes it.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return platform.node()


def pid_namespace() -> str:
    """Returns the PID namespace, which distinguishes equal pids of two containers."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_alive(pid: int, start: int | None) -> bool:
    """Returns whether the process is alive. Without start times, whether the pid is."""
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
    """Returns the start time of a process in ticks after boot, or None if unknown."""
    now = _stat(pid)
    return None if now is None else now[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """Returns state letter and start time in ticks after boot from /proc, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before the last parenthesis may contain spaces and parentheses.
            fields = file.read(_MAX_BYTES).rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
