"""Reads and loads the states of the sub-environments of a WorkerVectorEnv."""

from typing import Any

import numpy as np

from fastdqn.envs.sub_env_state import Unreadable
from fastdqn.envs.worker_vector_env import WorkerVectorEnv

# Seconds between two checks of whether a worker lives. Ours, untuned.
_CHECK = 0.1


def read_worker_states(envs: WorkerVectorEnv) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns bool[N], which sub-environments reset next, and the state of each by its number.

    Raises:
        Unreadable: A worker is busy or dead, or a state is not known.
    """
    replies = _ask(envs, [("read_state",)] * len(envs.groups))
    if lines := [line for _, line in replies if line]:
        raise Unreadable(lines[0])
    ended = np.array([flag for reply, _ in replies for flag in reply["ended"]], np.bool_)
    return ended, {lane: state for reply, _ in replies for lane, state in reply["lanes"].items()}


def write_worker_states(envs: WorkerVectorEnv, ended: np.ndarray, lanes: dict[str, Any]) -> None:
    """Loads states, after every worker has checked its own.

    Raises:
        ValueError: A field does not fit, and nothing was changed.
    """
    messages = []
    for group in envs.groups:
        flags = ended[group.start : group.stop].tolist()
        messages.append(("check_state", flags, {str(i): lanes[str(i)] for i in group}))
    for message in (messages, [("load_state",)] * len(envs.groups)):
        if lines := [line for _, line in _ask(envs, message) if line]:
            raise ValueError(lines[0])


def _ask(envs: WorkerVectorEnv, messages: list[tuple]) -> list[tuple[Any, str]]:
    """Sends each worker a message, and returns (answer, error in one line) of each."""
    workers = range(len(envs.groups))
    if not all(map(envs.has_answered, workers)):
        raise Unreadable("worker processes are stepping their environments")
    for worker, message in zip(workers, messages, strict=True):
        envs.command(worker, message)
    try:
        answers = [envs.message_of(worker) for worker in workers]
    except (EOFError, OSError) as error:
        raise Unreadable("a worker process died") from error
    for worker in workers:  # an answer is counted after it was sent
        while not envs.has_answered(worker) and envs.processes[worker].is_alive():
            envs.replies.acquire(True, _CHECK)
    return answers
