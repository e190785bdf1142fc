"""Backend: the interface through which EnvStream steps environments."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdqn.envs.errors import LaneFailure


class Arrival(NamedTuple):
    """Step results of R sub-environments, one row for each.

    The first result after a reset has reward 0 and neither flag set.

    Attributes:
        lanes: int64[R], the sub-environments, each at most once.
        obs: A batch of the raw observation space.
        reward: One number for each row.
        terminated: One flag for each row.
        truncated: One flag for each row.
        info: A batched info dict; its arrays may be longer than R.
    """

    lanes: np.ndarray
    obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]


class Backend(Protocol):
    """Sends actions to sub-environments and receives step results.

    Attributes:
        num_ready: R, the sub-environments in each step result and in each send().
        lost: Failures of sub-environments that were replaced. Each begins an episode in the next
            step result.
    """

    num_ready: int
    lost: list[LaneFailure]

    def reset(self, seed: int | None) -> Arrival:
        """Resets every sub-environment and waits for the first R."""
        ...

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        """Sends actions [R], as the environment counts them, to sub-environments that wait."""
        ...

    def recv(self) -> Arrival: ...

    def restart(self, lanes: np.ndarray) -> Arrival:
        """Resets these sub-environments only (DISABLED); all N are in the result."""
        ...

    def unanswered(self) -> dict[int, int] | None:
        """Returns the id of the call that each sub-environment has not returned from yet.

        None if the back end makes blocking calls only. Called from another thread.
        """
        ...

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        """Makes the wait for a sub-environment fail if the call is still open. From any thread."""
        ...

    def settle(self) -> None:
        """Waits for open calls and drops their results. The environments stay open for others."""
        ...

    def close(self) -> None: ...
