"""RunLock: one process at a time writes into a run's folder."""

import contextlib
import errno
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from fastdqn.record.files import WriteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_MAX_BYTES = 4096
# A lock is looked at and rewritten within microseconds; ours, untuned.
_TRIES, _PAUSE_SECONDS = 500, 0.01


class LockedError(RuntimeError):
    """Another process has the run: one line, which process, and what to do."""


class RunLock:
    """RUN/lock: pid, start time and host of the process that holds the run.

    A lock whose process is gone, or whose pid has been given to another since, is taken over.
    Use it as a context manager, or call acquire() and release().
    """

    def __init__(self, run: Path):
        self.path = run / "lock"
        self._mine: dict[str, Any] | None = None

    def acquire(self) -> None:
        """Take the lock. Raises LockedError where it is held, WriteError where it cannot be."""
        for _ in range(_TRIES):
            try:
                if self._try():
                    return
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise LockedError(f"{self.path} is a symbolic link: delete it") from None
                if error.errno == errno.EISDIR:
                    raise LockedError(f"{self.path} is not a regular file: delete it") from None
                raise WriteError(f"cannot write {self.path}: {error.strerror}") from error
            time.sleep(_PAUSE_SECONDS)
        raise LockedError(f"{self.path} is being taken by another process: try again")

    def release(self) -> None:
        """Give the lock back; a lock that is no longer ours stays. Safe to call twice."""
        mine, self._mine = self._mine, None
        if mine is None or mine["pid"] != os.getpid():  # a child's copy holds nothing
            return
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            # A process that reads the lock just now must not take over what is then deleted.
            for _ in range(_TRIES):
                if _guard(fd) is not False:
                    break
                time.sleep(_PAUSE_SECONDS)
            if self._is_same(fd) and _read(fd) == mine:
                os.unlink(self.path)
        finally:
            _close(fd)

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(self, *exception) -> None:
        self.release()

    def _try(self) -> bool:
        """Look at the lock and take it if it is free; False if another looks at it just now."""
        fd, created = self._open()
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LockedError(f"{self.path} is not a regular file: delete it")
            # Without this a second process could judge the lock stale, and replace it, while a
            # first has just taken it over.
            guarded = _guard(fd)
            if guarded is False:
                return False
            if not self._is_same(fd):
                return False  # released since it was opened
            if not created or guarded:
                self._refuse_if_held(_read(fd), guarded is None)
            mine = {"pid": os.getpid(), "start": _start(os.getpid()), "host": socket.gethostname()}
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(mine).encode() + b"\n", 0)
            os.fsync(fd)
            self._mine = mine
            return True
        finally:
            _close(fd)

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
        except FileExistsError:
            return os.open(self.path, flags | os.O_CREAT, 0o644), False

    def _is_same(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _refuse_if_held(self, holder: dict[str, Any] | None, unguarded: bool) -> None:
        """Raises LockedError unless nobody alive has written this."""
        remedy = f"delete {self.path} if it is not"
        if unguarded:
            raise LockedError(f"{self.path} exists, another run may be using it: {remedy}")
        if holder is None:  # whoever made it ended before a word was written
            return
        pid, host = holder["pid"], holder["host"]
        if host != socket.gethostname():
            raise LockedError(f"{self.path}: process {pid} on {host!r} may be running: {remedy}")
        if _is_alive(pid, holder["start"]):
            raise LockedError(f"{self.path}: process {pid} is using this run: wait, or stop it")


def holder(run: Path) -> str | None:
    """Who holds a run's lock, or held it, in words; None where nobody does. Nothing is changed."""
    try:
        fd = os.open(run / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{run / 'lock'} cannot be read: {error.strerror}"
    try:
        found = _read(fd)
    except OSError:  # a folder
        found = None
    finally:
        os.close(fd)
    if found is None:
        return "left by a process that is gone"
    if found["host"] != socket.gethostname():
        return f"held by process {found['pid']} on {found['host']!r}, if it runs"
    if _is_alive(found["pid"], found["start"]):
        return f"held by process {found['pid']}, which runs"
    return f"left by process {found['pid']}, which is gone"


def _guard(fd: int) -> bool | None:
    """Have the file to ourselves until it is closed: True; False: another has; None: cannot."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return None
    return True


def _close(fd: int) -> None:
    """Let others look too; a child forked meanwhile may have the file open for long."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _read(fd: int) -> dict[str, Any] | None:
    """Who holds the lock, or None where the file does not say so."""
    try:
        holder = json.loads(os.pread(fd, _MAX_BYTES, 0))
    except (ValueError, RecursionError):
        return None
    if not isinstance(holder, dict) or holder.keys() != {"pid", "start", "host"}:
        return None
    pid, start, host = holder["pid"], holder["start"], holder["host"]
    if type(pid) is not int or not 0 < pid < 1 << 31 or not isinstance(host, str):
        return None
    return holder if start is None or type(start) is int else None


def _is_alive(pid: int, start: int | None) -> bool:
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


def _start(pid: int) -> int | None:
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
