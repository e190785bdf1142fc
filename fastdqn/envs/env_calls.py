"""Asking: calls into environments, what led to those that fail, and who has not answered yet."""

from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fastdqn.envs.backend_interface import Backend
from fastdqn.envs.errors import EnvError, explain, explain_hang


class Asking:
    """Lets the environments of a back end answer, one call at a time.

    steps, action [N] int64  of each lane so far, action from 0 and action_start  what the
          environment counts from: for messages
    episode  arrays [N] that are zeroed for a lane that was replaced, steps among them; unseen [N]
          bool is set: its next answer is a first one
    seed  of the first lane's last reset, if any
    lost  what became of lanes that were replaced, until whoever tells it takes it away
    """

    def __init__(
        self, envs: VectorEnv, backend: Backend, steps: np.ndarray, action: np.ndarray,
        action_start: int, episode: tuple[np.ndarray, ...], unseen: np.ndarray,
    ):  # fmt: skip
        self._envs, self._backend, self._steps = envs, backend, steps
        self._action, self._action_start = action, action_start
        self._episode, self._unseen = episode, unseen
        self.seed: int | None = None
        self.lost: list[EnvError] = []
        self._count, self._what = 0, ""  # of calls; the one under way

    def __call__(self, what: str, question: Callable[[], Any]) -> Any:
        """What the back end answers; what it raises is told with what led to it.

        what  reset or step
        """
        self._count, self._what = self._count + 1, what
        try:
            return question()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and GeneratorExit among them
            raise explain(self._envs, error, *self._led(what)) from error
        finally:
            self._what = ""
            if self._backend.lost:
                self._forget_lost(what)

    def unanswered(self) -> dict[int, int]:
        """Lanes that have not answered yet, each with the number of its question; lane -1 stands
        for all of them where they are asked by a call. Called from another thread."""
        waiting = self._backend.unanswered()
        if waiting is None:
            return {-1: self._count} if self._what else {}
        return waiting

    def give_up(self, lane: int, question: int, why: str) -> None:
        """End the process of a lane that hangs: whoever waits for it hears. Called likewise."""
        self._backend.give_up(lane, question, why)

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """A call that does not come back, by the frames it is in, outermost first."""
        return explain_hang(self._envs, frames, why, *self._led(self._what or "step"))

    def _forget_lost(self, what: str) -> None:
        """The episodes of lanes that were replaced are over, without an end to be told."""
        for failure in self._backend.lost:
            self.lost.append(explain(self._envs, failure, *self._led(what)))
            self._unseen[failure.lane] = True
            for values in self._episode:
                values[failure.lane] = 0
        self._backend.lost.clear()

    def _led(self, what: str) -> tuple:
        """What led to a failure, as explain() takes it."""
        return what, self._steps, self.seed, self._action + self._action_start
