"""Making: the calls that make environments, for whoever watches, while nobody can be asked yet."""

from types import FrameType

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.acting.failures import EnvError, HungError, own_trace, trace_of
from fastdqn.acting.stream import EnvStream


class Making:
    """Stands where Asking will, and is a context manager around such calls.

    what  is made, for messages
    An interrupted call becomes an EnvError.
    """

    def __init__(self, what: str):
        self._what, self._under_way = what, False
        EnvStream(_Nobody())  # compiles its kernels, of which nobody is to be told that they hang

    def __enter__(self) -> "Making":
        self._under_way = True
        return self

    def __exit__(self, kind, error: BaseException | None, _) -> None:
        self._under_way = False
        if isinstance(error, HungError):
            raise self._told(str(error), own_trace(error)) from error

    def unanswered(self) -> dict[int, int]:
        """As Asking's, for all lanes together. Called from another thread."""
        return {-1: 0} if self._under_way else {}

    def give_up(self, lane: int, question: int, why: str) -> None:
        """Nothing is known of processes of lanes; who started them ends them."""

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """A call that does not come back, by the frames it is in, outermost first."""
        return self._told(why, trace_of(frames))

    def _told(self, why: str, trace: str) -> EnvError:
        told = EnvError(f"{self._what} hangs while it is made: {why}")
        told.trace = trace
        return told


class _Nobody(VectorEnv):
    """The least that a stream can be made of."""

    num_envs = 1
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    single_action_space = spaces.Discrete(1)
