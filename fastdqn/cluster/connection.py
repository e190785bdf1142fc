"""connected(): a connection to a Ray cluster, for as long as a context lasts."""

import atexit
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from fastdqn.config.schema import ConfigError

# Address that starts Ray on this machine, and the one that looks for a running cluster.
LOCAL, AUTO = "local", "auto"
# Seconds in which the head node must answer. Ray itself ends the process after 80.
_PATIENCE = 5.0
_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
# Settings of Ray for this process and those that it starts, unless the user has set them.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it, Ray warns at each task without a GPU
}


def ray_problem() -> str | None:
    """Returns why Ray cannot be used, or None."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'fastdqn[ray]'"
    return None


@contextlib.contextmanager
def connected(address: str, cpus: int | None = None, reconnect_seconds: int = 60) -> Iterator[str]:
    """Connects this process to a cluster. Yields the address of its head node, HOST:PORT.

    Args:
        address: local starts Ray on this machine, and stops it afterwards. auto is a cluster that
            runs on this machine, or the one of RAY_ADDRESS. Else HOST:PORT of the head node.
        cpus: CPUs that a Ray of its own has. None: those of the machine.
        reconnect_seconds: After this time without the head node, Ray ends this process.

    Raises:
        ConfigError: Ray is missing, or there is no such cluster.
    """
    if line := ray_problem():
        raise ConfigError([line])
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(_RECONNECT, str(reconnect_seconds))
    import ray

    if ray.is_initialized():  # by the program that calls, and it stays so
        head = ray.get_runtime_context().gcs_address
        if not is_member(head):
            raise ConfigError(
                [f"this process has lost its Ray cluster at {head}: start a new process"]
            )
        yield head
        return
    _require_answer(os.environ.get("RAY_ADDRESS") if address == AUTO else address)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        with _own_handlers():
            ray.init(
                address, log_to_driver=False, configure_logging=False,
                **({"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}),
            )  # fmt: skip
    except (ConnectionError, OSError, RuntimeError, ValueError, AssertionError) as error:
        line = " ".join(str(error).split()).partition(". ")[0]
        raise ConfigError(
            [
                f"no Ray cluster at {address}: {line}. If it asks for a token, set "
                "RAY_AUTH_MODE=token"
            ]
        ) from None
    head = ray.get_runtime_context().gcs_address
    try:
        with _no_messages():
            yield head
    finally:
        if is_member(head):
            with _own_handlers():
                ray.shutdown()
        else:  # Ray would wait for the head node here, and again at the end of the process
            if sys.excepthook.__module__.startswith("ray"):
                sys.excepthook = sys.__excepthook__
            atexit.register(_exit_without_ray)


def answers(address: str, patience: float = _PATIENCE) -> bool:
    """Returns whether the head node at HOST:PORT accepts a connection."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), patience).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def is_member(head: str) -> bool:
    """Returns whether this machine is part of the cluster with this head node."""
    import ray

    if not answers(head) or not raylet_answers():
        return False
    try:
        here = ray.get_runtime_context().get_node_id()
        return any(node["NodeID"] == here and node["Alive"] for node in ray.nodes())
    except Exception:  # such as a connection that breaks
        return False


def raylet_answers() -> bool:
    """Returns whether Ray's process of this machine accepts a connection.

    Without it, Ray ends the processes that are connected to it after some ten seconds.
    """
    from ray._private import worker  # there is no public way to know it

    path = getattr(getattr(worker.global_worker, "node", None), "raylet_socket_name", None)
    if path is None:
        return True
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(path)
        except OSError:
            return False
    return True


def _require_answer(address: str | None) -> None:
    """Raises ConfigError for an address that names no head node, or one that does not answer."""
    if address in (None, "", LOCAL, AUTO):
        return
    host, _, port = str(address).rpartition(":")
    if "://" in str(address) or not host or not port.isdecimal():
        raise ConfigError(
            [f"the Ray address is {address!r}: it must be local, auto, or HOST:PORT of a head node"]
        )
    if not answers(str(address)):
        raise ConfigError(
            [f"no Ray cluster at {address}: nothing answers there. Start one with `ray start "
             "--head`, or use local"]
        )  # fmt: skip


def _exit_without_ray() -> None:
    """Ends a process that has lost its cluster, with the code of a failure."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(1)


@contextlib.contextmanager
def _no_messages() -> Iterator[None]:
    """Keeps Ray from printing that a process or a node was lost, which fastdqn itself reports.

    Ray has no setting for it: log_to_driver is about the output of the processes alone.
    """
    import ray._private.worker as worker

    name = "print_to_stdstream"
    before = getattr(worker, name, None)
    if before is None:  # another version of Ray: it prints
        yield
        return
    setattr(worker, name, lambda data, **options: None)
    try:
        yield
    finally:
        setattr(worker, name, before)


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keeps the signal handlers of this process, which Ray replaces in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)
    before: dict[Any, Any] = {name: signal.getsignal(name) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler is not None:
                signal.signal(name, handler)
