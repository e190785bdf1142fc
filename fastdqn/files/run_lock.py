"""RunLock: lock of a run folder, so that only one process writes into it."""

import contextlib
import errno
import json
import os
import platform
import stat
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.durable_write import TEMPORARY
from fastdqn.files.open_folder import Place, open_folder
from fastdqn.files.run_lock_file import STALE_SECONDS, guard, is_gone, read_holder
from fastdqn.system.process_identity import machine, pid_namespace, start_of
from fastdqn.system.python_threads import start_thread

# Seconds between two renewals of the lock file.
BEAT_SECONDS = 10.0
# A reader holds the lock for microseconds, so a few retries are enough. Not tuned.
_TRIES, _PAUSE_SECONDS = 20, 0.01
# Seconds between two checks while waiting for the lock of another process.
_WAIT_SECONDS = 1.0


class LockedError(RuntimeError):
    """Raised if another process holds the run. The message names the process and the fix."""


class LostRunError(RuntimeError):
    """Raised if another process has taken over the run folder. This process must not write."""


class RunLock:
    """Lock file RUN/lock: a kernel lock (flock), and a description of the process that holds it.

    The kernel releases the lock when the process dies. Other machines do not always see this, and
    some file systems have no locks. In those cases the modification time of the file decides. The
    holder renews it every BEAT_SECONDS. A lock that is not renewed for STALE_SECONDS is taken
    over. If the old holder was only suspended, its place rejects all changes from then on.

    Use it as a context manager, or call acquire() and release().
    """

    def __init__(self, run: Path):
        self.path = run / "lock"
        self._mine: dict[str, Any] | None = None
        self._root = self._fd = -1
        self._over = threading.Event()
        self._beats: threading.Thread | None = None

    @property
    def place(self) -> Place:
        """The run folder as opened by acquire(). It rejects changes once the lock is lost."""
        return Place(self._root, self.path.parent, (), self.check)

    def acquire(
        self, waits: bool = False, report: Callable[[str], None] = lambda line: None
    ) -> None:
        """Takes the lock.

        Args:
            waits: Whether to wait until the lock of a process on another machine is stale, if it
                cannot be known whether that process is alive.
            report: Called with a line before waiting.

        Raises:
            LockedError: Another process holds the lock.
            WriteError: The lock file cannot be written.
        """
        _held.add(self)
        try:
            self._root = open_folder(self.path.parent)
            self._take(waits, report)
        except OSError as error:
            self._close()
            if error.errno == errno.ELOOP:
                raise LockedError(f"{self.path} is a symbolic link: delete it") from None
            if error.errno in (errno.EISDIR, errno.ENXIO):
                raise LockedError(f"{self.path} is not a regular file: delete it") from None
            raise WriteError(f"cannot write {self.path}: {error.strerror}") from error
        except BaseException:
            self._close()
            raise
        self._over.clear()
        try:  # now: creating environments and loading a replay may take minutes
            self._beats = start_thread(self._beat, name="lock")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Releases the lock, unless another process has taken it over. Safe to call twice."""
        mine, self._mine = self._mine, None
        if mine is None or mine["pid"] != os.getpid():  # a copy in a child process is not held
            return
        self._over.set()
        if self._beats is not None:
            self._beats.join(BEAT_SECONDS)
            self._beats = None
        with contextlib.suppress(OSError):
            if self._is_same() and read_holder(self._fd) == mine:
                os.unlink("lock", dir_fd=self._root)
        self._close()

    def check(self) -> None:
        """Raises LostRunError if another process has taken over the lock, or it was released."""
        mine = self._mine
        if mine is None:
            raise LostRunError(f"{self.path}: this process does not hold the lock of the run")
        try:
            fd = os.open("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._root)
        except OSError:  # the file was deleted, and no process has recreated it
            return
        try:
            found = read_holder(fd)
        finally:
            os.close(fd)
        if found is not None and found != mine:
            raise LostRunError(
                f"{self.path}: process {found['pid']} on {found['host']!r} has taken over the run: "
                "this process stops writing to it"
            )

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(self, *exception) -> None:
        self.release()

    def _take(self, waits: bool, report: Callable[[str], None]) -> None:
        """Tries until the lock is taken. Raises LockedError, OSError."""
        seen, since = None, time.monotonic()
        busy = 0
        while True:
            answer = self._try(seen is not None and time.monotonic() - since >= STALE_SECONDS)
            if answer == "taken":
                return
            if answer == "busy":
                busy += 1
                if busy >= _TRIES:
                    raise self._refusal("is using this run: wait, or stop it")
                time.sleep(_PAUSE_SECONDS)
                continue
            changed = self._changed_ns
            if not waits or (seen is not None and changed != seen):
                raise self._refusal(
                    "may be running: its lock is stale after "
                    f"{STALE_SECONDS:.0f} s without a renewal. Wait, or stop it"
                )
            if seen is None:
                seen = changed
                report(f"{self._refusal('may be running')}: waiting until its lock is stale")
            time.sleep(_WAIT_SECONDS)

    def _try(self, is_stale: bool) -> str:
        """Takes the lock if it is free, and returns 'taken', 'busy' or 'unknown'.

        'busy': the lock is held, or its holder has just changed. 'unknown': the holder may be
        alive on another machine.
        """
        created = self._open()
        taken = False
        try:
            info = os.fstat(self._fd)
            if not stat.S_ISREG(info.st_mode):
                raise LockedError(f"{self.path} is not a regular file: delete it")
            guarded = guard(self._fd)
            self._found = found = read_holder(self._fd)
            self._changed_ns = info.st_mtime_ns
            if guarded is False:
                return "busy"
            if not self._is_same():
                return "busy"  # released since it was opened
            gone = True if created else is_gone(found, guarded)
            if gone is False:
                return "busy"
            if gone is None and not is_stale and self._age(info.st_mtime) < STALE_SECONDS:
                return "unknown"
            self._write()
            taken = True
            return "taken"
        finally:
            if not taken:
                fd, self._fd = self._fd, -1
                os.close(fd)

    def _open(self) -> bool:
        """Opens the lock file. Returns whether it was created."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open("lock", flags | os.O_EXCL, 0o644, dir_fd=self._root)
        except FileExistsError:
            self._fd = os.open("lock", flags, 0o644, dir_fd=self._root)
            return False
        return True

    def _write(self) -> None:
        pid = os.getpid()
        mine = {
            "pid": pid, "start": start_of(pid), "host": platform.node(), "machine": machine(),
            "namespace": pid_namespace(), "token": uuid.uuid4().hex,
        }  # fmt: skip
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(mine).encode() + b"\n", 0)
        os.fsync(self._fd)
        self._mine = mine

    def _age(self, changed: float) -> float:
        """Returns the seconds since changed, by the clock of the file system."""
        name = f"{TEMPORARY}clock-{uuid.uuid4().hex}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=self._root)
        try:
            return os.fstat(fd).st_mtime - changed
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self._root)

    def _is_same(self) -> bool:
        try:
            here = os.stat("lock", dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._fd), here)

    def _refusal(self, problem: str) -> LockedError:
        found = self._found
        who = "another process" if found is None else f"process {found['pid']}"
        if found is not None and found["machine"] != machine():
            who += f" on {found['host']!r}"
        return LockedError(f"{self.path}: {who} {problem}")

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # disk errors are reported where files are written
                os.utime(self._fd)

    def _close(self) -> None:
        """Closes the file descriptors, which releases the kernel lock."""
        _held.discard(self)
        for fd in (self._fd, self._root):
            if fd >= 0:
                with contextlib.suppress(OSError):  # an environment closed it
                    os.close(fd)
        self._fd = self._root = -1

    def forget(self) -> None:
        """Closes the copies in a forked child: only the parent holds the lock."""
        self._mine = None
        for fd in (self._fd, self._root):
            if fd >= 0:
                with contextlib.suppress(OSError):  # an environment closed it
                    os.close(fd)
        self._fd = self._root = -1


# Locks of this process. A forked child must not keep them open after the parent ends.
_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_held):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)


@contextlib.contextmanager
def locked_folder(
    folder: Path, explain: Callable[[LockedError], str] = str, **how: Any
) -> Iterator[Place]:
    """Creates and locks a folder. Folders that stay empty are removed afterwards.

    Args:
        folder: The folder.
        explain: Returns the message if another process holds it.
        **how: Arguments of RunLock.acquire().

    Raises:
        ConfigError: Another process holds it, or it cannot be created.
    """
    new, lock = list[Path](), RunLock(folder)
    try:
        try:
            new = [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(**how)
        except LockedError as error:
            raise ConfigError([explain(error)]) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigError([f"run_dir {folder}: {why}"]) from None
        yield lock.place
    finally:
        lock.release()
        for each in new:
            with contextlib.suppress(OSError):  # not empty: something has begun in it
                each.rmdir()
