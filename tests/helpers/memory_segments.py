"""Shared memory segments that are open."""

import os


def shared_memory() -> set[str]:
    """Files of this process; tests in others have theirs there, too."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {name for name in names if f"-{os.getpid()}-" in name}
