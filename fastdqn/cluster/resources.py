"""Resources: what a job needs of a node, and how many jobs a cluster holds."""

import os
from typing import Any, NamedTuple

import ray


class Resources(NamedTuple):
    """Cores and GPUs of a job. A GPU may be shared: 0.25 is a quarter of one."""

    cpus: int = 1
    gpus: float = 0.0


def alive_nodes() -> list[dict[str, Any]]:
    """Returns the nodes of the cluster that are alive, as Ray describes them."""
    return [each for each in ray.nodes() if each["Alive"]]


def capacity(needed: Resources) -> int:
    """Returns the number of jobs that all nodes hold at a time."""
    return sum(_jobs(each["Resources"], needed) for each in alive_nodes())


def too_large(needed: Resources) -> str:
    """Returns an error message if no node holds a job."""
    nodes = [each["Resources"] for each in alive_nodes()]
    cpus, gpus = (max((each.get(n, 0) for each in nodes), default=0) for n in ("CPU", "GPU"))
    if needed.gpus <= gpus:
        return (
            f"ray_cpus is {needed.cpus}: no node of the cluster has as many, the largest has "
            f"{cpus:g}. Lower --ray-cpus"
        )
    return (
        f"ray_gpus is {needed.gpus:g}: no node of the cluster has as many, the largest has "
        f"{gpus:g}. Lower --ray-gpus"
    )


def hide_gpus() -> None:
    """Hides the GPUs of the node from this process, to which Ray has assigned none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _jobs(has: dict[str, float], needed: Resources) -> int:
    jobs = int(has.get("CPU", 0) // needed.cpus)
    if needed.gpus:
        gpus = has.get("GPU", 0)
        # A job has a part of one GPU, or whole ones.
        held = gpus // needed.gpus if needed.gpus >= 1 else gpus * int(1 / needed.gpus + 1e-9)
        jobs = min(jobs, int(held))
    return jobs
