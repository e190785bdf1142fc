"""EnvCalls: makes the calls into environments and explains those that fail or hang."""

from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fastdqn.envs.backend_interface import Backend
from fastdqn.envs.errors import EnvError, explain, explain_hang


class EnvCalls:
    """Makes calls into the environments of a back end, one at a time.

    Attributes:
        seed: Seed of the first sub-environment's last reset, if any.
        lost: Errors of sub-environments that were replaced; the caller pops them.

    Args:
        envs: The vector environment.
        backend: Its back end.
        steps: int64[N], steps of each sub-environment so far, for messages.
        action: int64[N], its last action counted from 0, for messages.
        action_start: The number that the environment gives to action 0.
        episode: Arrays [N], among them steps, that are zeroed for a replaced sub-environment.
        unseen: bool[N], set for a replaced sub-environment, since its next observation is a first
            one.
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
        self._count, self._what = 0, ""  # number of calls, and the name of the open one

    def __call__(self, what: str, call: Callable[[], Any]) -> Any:
        """Returns the result of call(). `what` names the call in messages.

        Raises:
            EnvError: The call raised; the message names the sub-environment, its seed and action.
        """
        self._count, self._what = self._count + 1, what
        try:
            return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and GeneratorExit among them
            raise explain(self._envs, error, *self._led(what)) from error
        finally:
            self._what = ""
            if self._backend.lost:
                self._forget_lost(what)

    def unanswered(self) -> dict[int, int]:
        """Returns the id of the call that each sub-environment has not returned from yet.

        Key -1 stands for all of them if one blocking call steps them. Called from another thread.
        """
        waiting = self._backend.unanswered()
        if waiting is None:
            return {-1: self._count} if self._what else {}
        return waiting

    def give_up(self, lane: int, call_id: int, why: str) -> None:
        """Kills the worker process that hangs, so that the wait for it fails. From any thread."""
        self._backend.give_up(lane, call_id, why)

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """Returns the error for a call that does not return, from its stack, outermost first."""
        return explain_hang(self._envs, frames, why, *self._led(self._what or "step"))

    def _forget_lost(self, what: str) -> None:
        """Ends the episodes of replaced sub-environments; they are not counted or logged."""
        for failure in self._backend.lost:
            self.lost.append(explain(self._envs, failure, *self._led(what)))
            lanes = [failure.lane, *failure.also]
            self._unseen[lanes] = True
            for values in self._episode:
                values[lanes] = 0
        self._backend.lost.clear()

    def _led(self, what: str) -> tuple:
        """Returns the context of a failure, as explain() expects it."""
        return what, self._steps, self.seed, self._action + self._action_start
