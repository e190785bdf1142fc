"""A Ray cluster of two nodes on this machine, and the processes of runs."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastdqn.cluster.connection import connected

# Bytes of the object store of a node, about the least that Ray takes.
STORE = 100 << 20
_PATIENCE = 60.0


@contextlib.contextmanager
def two_nodes(caches: Path) -> Iterator[Any]:
    """Starts two nodes with a core each, and connects to them. Yields the cluster.

    caches: the cache folders of the nodes, which are no shared storage, are made here.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={**_node(caches / "0"), "include_dashboard": False},
    )
    try:
        cluster.add_node(**_node(caches / "1"))
        assert cluster.address is not None
        with connected(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def two_larger_nodes(cluster: Any, caches: Path) -> Iterator[Callable[[int], None]]:
    """Adds two nodes with two cores each. Yields a function that removes that of a process."""
    nodes = [cluster.add_node(**_node(caches / name, cores=2)) for name in ("2", "3")]
    cluster.wait_for_nodes()

    def remove(runner: int) -> None:
        """Removes the node that has started a process, as if its machine were lost."""
        for node in nodes:
            if node.all_processes["raylet"][0].process.pid == parent_of(runner):
                cluster.remove_node(node, allow_graceful=False)
                nodes.remove(node)
                return
        raise AssertionError(runner)

    try:
        yield remove
    finally:
        for node in nodes:
            cluster.remove_node(node)
        for name in ("2", "3"):  # a lost node keeps its copies
            shutil.rmtree(caches / name)


def _node(cache: Path, cores: int = 1) -> dict[str, Any]:
    cache.mkdir(parents=True, exist_ok=True)
    return {
        "num_cpus": cores, "object_store_memory": STORE,
        "env_vars": {"XDG_CACHE_HOME": str(cache)},
    }  # fmt: skip


def run_processes(*folders: Path) -> list[int]:
    """Returns the processes that train runs in these folders."""
    return [pid for pid, words in _programs() if _is_run(words, folders)]


def saved(*folders: Path) -> int:
    """Returns the number of runs with a checkpoint after their first step."""
    texts = [_text(Path(place, "latest")) for folder in folders for place, _, _ in os.walk(folder)]
    return sum(int(text.strip().removeprefix("step-")) > 0 for text in texts if text)


def parent_of(pid: int) -> int:
    """Returns the process that has started another one."""
    return int(_stat(pid)[1])


def task_processes(function: str) -> list[int]:
    """Returns the processes that run a function as a task of Ray, which names them by it."""
    return [pid for pid, words in _programs() if words[0].startswith(f"ray::{function}")]


def session_of(pid: int) -> list[int]:
    """Returns the processes of the session that a process has started, and has the number of."""
    return [each for each, _ in _programs() if _stat(each)[3:4] == [str(pid)]]


def wait_until(condition: Callable[[], Any], seconds: float = _PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_run(words: list[str], folders: tuple[Path, ...]) -> bool:
    return any(word.endswith("run_process.py") for word in words) and any(
        word.startswith(f"{folder}/") for word in words for folder in folders
    )


def _programs() -> Iterator[tuple[int, list[str]]]:
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError):
                yield int(each.name), (each / "cmdline").read_bytes().decode().split("\0")


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat after the name, or nothing for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
