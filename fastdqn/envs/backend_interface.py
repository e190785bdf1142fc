"""Arrival: what lanes answer, and what a stream asks of the back end that they answer through."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdqn.envs.errors import LaneFailure


class Arrival(NamedTuple):
    """What R lanes answered: each field has R entries, in the order of lanes.

    lanes [R] int64, none twice · obs  a batch of the raw space · reward, terminated, truncated [R]
    info  of Gymnasium's vector kind; its arrays may be longer than R
    A lane's first answer after a reset has reward 0 and neither end.
    """

    lanes: np.ndarray
    obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]


class Backend(Protocol):
    """num_ready  R: the lanes of each arrival, and so of each send.

    lost  failures of lanes that were replaced: each begins an episode in the next arrival
    """

    num_ready: int
    lost: list[LaneFailure]

    def reset(self, seed: int | None) -> Arrival:
        """Reset every lane, and wait for the first R."""
        ...

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        """Hand lanes [R] that have answered their actions [R], in the environment's count."""
        ...

    def recv(self) -> Arrival: ...

    def restart(self, lanes: np.ndarray) -> Arrival:
        """Reset these lanes alone (AutoresetMode.DISABLED); all N lanes are in the arrival."""
        ...

    def unanswered(self) -> dict[int, int] | None:
        """Lanes that have not answered yet, each with the number of its question; None where calls
        are all there is. Called from another thread."""
        ...

    def give_up(self, lane: int, question: int, why: str) -> None:
        """Make the wait for a lane fail, if it is still for that question. Called likewise."""
        ...

    def settle(self) -> None:
        """Take in what is under way and forget it, so that others may use the environments."""
        ...

    def close(self) -> None: ...
