"""Program of one run of a study: takes its cores, ends with its parent, then runs `fastdqn`.

    python -P run_process.py PARENT CORES train cartpole ...

PARENT is the process that started this one. CORES is a list such as 0,1, or empty for all.
"""

import importlib.util
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def take_cores(cores: str) -> None:
    """Limits this process to some cores. Without affinity, as on macOS, nothing happens."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))


def end_with(parent: int) -> None:
    """Makes the kernel kill this process when the parent dies. Other systems than Linux cannot.

    SIGKILL, since a process without its parent would hold the lock of its run while it saves.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it has died since it started this process
        sys.exit(1)


def main(words: list[str]) -> None:
    """Runs the command line in this process, with the package that this file belongs to."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    end_with(int(words[0]))
    take_cores(words[1])
    sys.argv[1:] = words[2:]
    found = importlib.util.find_spec("fastdqn")
    if found is None or found.origin != os.path.join(home, "fastdqn", "__init__.py"):
        sys.path.insert(0, home)  # the parent found it in its working directory
    runpy.run_module("fastdqn", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
