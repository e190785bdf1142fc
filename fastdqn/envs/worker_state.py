"""Reads and loads the states of the sub-environments of a WorkerVectorEnv."""

from typing import Any

import numpy as np

from fastdqn.envs.sub_env_state import Unreadable
from fastdqn.envs.worker_loop import ANSWER
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
        ValueError: A field does not fit or a worker is dead, and nothing was changed.
    """
    messages = []
    for group in envs.groups:
        flags = ended[group.start : group.stop].tolist()
        messages.append(("check_state", flags, {str(i): lanes[str(i)] for i in group}))
    try:
        for message in (messages, [("load_state",)] * len(envs.groups)):
            if lines := [line for _, line in _ask(envs, message) if line]:
                raise ValueError(lines[0])
    except Unreadable as error:
        raise ValueError(str(error)) from None


def _ask(envs: WorkerVectorEnv, messages: list[tuple]) -> list[tuple]:
    """Sends each worker a message, and returns (answer, error in one line) of each.

    Raises:
        Unreadable: A worker is busy or dead, or failed. The answers of the others have been read.
    """
    workers = range(len(envs.groups))
    if not all(map(envs.has_answered, workers)):
        raise Unreadable("worker processes are stepping their environments")
    for worker, message in zip(workers, messages, strict=True):
        envs.command(worker, message)
    answers, dead = [], False
    for worker in workers:
        try:
            while not envs.has_answered(worker) and not envs.pipes[worker].poll(_CHECK):
                if not envs.processes[worker].is_alive():
                    break
            if envs.arrays.failed[worker]:
                raise EOFError
            answers.append(envs.message_of(worker, ANSWER))
        except (EOFError, OSError):
            dead = True
        while not envs.has_answered(worker) and envs.processes[worker].is_alive():
            envs.replies.acquire(True, _CHECK)  # an answer is counted after it was sent
    if dead:
        raise Unreadable("a worker process failed")
    return answers
