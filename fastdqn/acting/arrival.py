"""Arrival: what lanes answer, and what a stream asks of the back end that they answer through."""

from typing import Any, NamedTuple, Protocol

import numpy as np


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
    """num_ready  R: the lanes of each arrival, and so of each send."""

    num_ready: int

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

    def settle(self) -> None:
        """Take in what is under way and forget it, so that others may use the environments."""
        ...

    def close(self) -> None: ...
