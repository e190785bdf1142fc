"""Failures of environments, told so that they can be repeated: lane, seed, action, traceback."""

import os
import signal
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import space_utils

from fastdqn.envs.observations import leaves, short

_HOME = SyncVectorEnv.step.__code__.co_filename
_CALLERS = tuple(os.path.dirname(file) + os.sep for file in (__file__, _HOME))


class NonFiniteError(ValueError):
    """NaN or infinity came out of an environment."""


class EnvError(RuntimeError):
    """An environment raised, died, or does not do what its interface promises.

    trace  traceback of what it raised, from its own process if it has one; '' if it did not
    """

    trace: str = ""


class MakeError(ValueError):
    """An environment cannot be made; one line says why."""


class SentError(Exception):
    """What a lane raised, as one line, on its way out of the lane's process."""


class LaneFailure(Exception):
    """What one lane's process raised, or how it ended: the lane, a line, its traceback.

    seed  that it was last reset with, where it is known
    """

    def __init__(self, lane: int, line: str, trace: str = ""):
        super().__init__(line)
        self.lane, self.line, self.trace = lane, line, trace
        self.seed: int | None = None


class HungError(Exception):
    """Raised inside an environment that does not answer, to end its call: one line, why."""


def explain(
    envs: VectorEnv, error: BaseException, what: str, steps: np.ndarray, seed: int | None,
    action: np.ndarray,
) -> EnvError:  # fmt: skip
    """An exception out of envs, told with what led to it.

    what  reset or step; steps, action [N] so far, of each lane; seed  of the first, if any
    """
    inner = envs.unwrapped
    failure = error if isinstance(error, LaneFailure) else _failing_lane(inner, error)
    own_seeds = isinstance(inner, SyncVectorEnv | AsyncVectorEnv)
    if failure.seed is not None:
        seed, own_seeds = failure.seed, False
    place = _name_place(failure.lane, what, steps, seed, own_seeds, action)
    told = EnvError(f"{place}: {failure.line}")
    told.trace = failure.trace
    return told


def own_trace(error: BaseException) -> str:
    """The traceback from the environment's own frames on: how it was called is the same always."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_CALLERS):
        own = own.tb_next
    return "".join(traceback.format_exception(type(error), error, own or error.__traceback__))


def how_it_ended(exit_code: int | None) -> str:
    """The end of a process in words."""
    if exit_code is None:
        return "its process does not answer"
    if exit_code >= 0:
        return f"its process exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "unknown"
    return f"its process was killed by signal {-exit_code} ({name})"


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks."""
    if isinstance(error, SentError | HungError):
        return str(error)
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # an exception of a user's need not be able to say what it is
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def misfit(space: spaces.Space, obs: Any) -> str | None:
    """Why an observation is not of its space, as far as arrays of lanes depend on it, or None."""
    for path, leaf in leaves(space):
        at = "".join(f"[{key!r}]" for key in path)
        try:
            part = obs
            for key in path:
                part = part[key]
        except (LookupError, TypeError):
            return f"an observation has no {at}, which the space {short(space)} promises"
        try:
            given, shape = np.asarray(part), leaf.shape or ()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # its __array__() may raise anything
            return f"an observation{at} is no array: {one_line(error)}"
        if leaf.dtype is None:  # a space that is no array: refused by those who read it
            continue
        if given.shape != shape or not np.can_cast(given.dtype, leaf.dtype, "same_kind"):
            return (
                f"an observation{at} is {given.dtype} {given.shape}, the space promises "
                f"{leaf.dtype} {shape}"
            )
    return None


def _failing_lane(envs: VectorEnv, error: BaseException) -> LaneFailure:
    """The lane that a SyncVectorEnv was at: the loop's own variable i says so."""
    unknown = LaneFailure(-1, one_line(error), own_trace(error))
    if not isinstance(envs, SyncVectorEnv):
        return unknown
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_code.co_filename for frame in frames]
    if space_utils.__file__ in files and _HOME in files:  # observations are put side by side
        return next(_misfits(envs), unknown)
    return LaneFailure(_lane_of_loop(frames), unknown.args[0], unknown.trace)


def explain_hang(
    envs: VectorEnv, frames: list[FrameType], line: str, what: str, steps: np.ndarray,
    seed: int | None, action: np.ndarray,
) -> EnvError:  # fmt: skip
    """A call that does not come back, by the frames it is in, outermost first; see explain()."""
    inner = envs.unwrapped
    lane = _lane_of_loop(frames) if isinstance(inner, SyncVectorEnv) else -1
    failure = LaneFailure(lane, line)
    failure.trace = trace_of(frames)
    return explain(envs, failure, what, steps, seed, action)


def trace_of(frames: list[FrameType]) -> str:
    """Where a thread is, as a traceback tells it; '' where it is nowhere."""
    return "".join(traceback.format_stack(frames[-1])) if frames else ""


def _lane_of_loop(frames: list[FrameType]) -> int:
    """The lane that SyncVectorEnv's loop is at, if these frames are within it; else -1."""
    own = (frame for frame in frames if frame.f_code.co_filename == _HOME)
    return next((frame.f_locals.get("i", -1) for frame in own), -1)


def _misfits(envs: SyncVectorEnv) -> Iterator[LaneFailure]:
    """Lanes whose last observation is not of its space."""
    for lane, obs in enumerate(getattr(envs, "_env_obs", ())):
        if line := misfit(envs.single_observation_space, obs):
            yield LaneFailure(lane, line)


def _name_place(
    lane: int, what: str, steps: np.ndarray, seed: int | None, own_seeds: bool, action: np.ndarray
) -> str:
    """Who failed, and what led to it: lane, step, seed, last action.

    lane  -1: nobody knows; what  reset or step; steps, action [N] so far, of each lane
    own_seeds  whether lane i has the seed i above the first
    """
    if lane < 0:
        return f"the environments failed in {what}() after {steps.max()} steps" + (
            "" if seed is None else f" (seed {seed})"
        )
    told = [] if seed is None else [f"seed {seed + lane if own_seeds else seed}"]
    if what == "step":
        told.append(f"last action {action[lane]}")
    where = "reset" if what == "reset" else f"step {steps[lane] + 1}"
    return f"lane {lane}, {where}" + (f" ({', '.join(told)})" if told else "")
