"""Options --ray, --ray-cpus and --ray-gpus: their errors, and the connection to the cluster."""

from collections.abc import Container
from contextlib import AbstractContextManager

from fastdqn.system.cpu_limits import usable_cores

_MOST_CPUS, _MOST_GPUS = 4_096, 1_024


def ray_problems(ray: str | None, cpus: int, gpus: float, given: Container[str]) -> list[str]:
    """Returns the errors of these options.

    given: names of the options on the command line.
    """
    lines = []
    if ray is None and (alone := [n for n in ("ray_cpus", "ray_gpus") if n in given]):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in alone)
        verb = "needs" if len(alone) == 1 else "need"
        lines.append(f"{flags} {verb} a cluster: add --ray local, auto or HOST:PORT")
    if not 1 <= cpus <= _MOST_CPUS:
        lines.append(f"ray_cpus is {cpus}: it must be a number from 1 to {_MOST_CPUS:,}")
    if not 0 <= gpus <= _MOST_GPUS or (gpus > 1 and gpus % 1):
        lines.append(
            f"ray_gpus is {gpus:g}: it must be a part of one GPU, from 0 to 1, or a whole number "
            f"up to {_MOST_GPUS:,}"
        )
    return lines


def connected_to(address: str) -> AbstractContextManager[str]:
    """Returns a connection to a Ray cluster. Raises ConfigError when it is entered."""
    from fastdqn.cluster.connection import connected

    return connected(address, usable_cores())
