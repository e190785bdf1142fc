"""Errors of environments: messages with sub-environment, seed, action and traceback."""

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
    """An environment returned NaN or infinity."""


class EnvError(RuntimeError):
    """An environment raised, died, or does not follow its interface.

    Attributes:
        trace: Traceback of the environment's exception, from its own process if it has one; '' if
            there was none.
        resumable: Whether the run is whole up to here, so that a checkpoint is worth writing.
    """

    trace: str = ""
    resumable: bool = False


class MakeError(ValueError):
    """An environment cannot be made; the message is one line."""


class ResultError(ValueError):
    """A result of an environment does not follow its interface; one line, which says it all."""


class SentError(Exception):
    """The error of a sub-environment, as one line, on its way out of its worker process."""


class LaneFailure(Exception):
    """The failure of one worker process.

    Attributes:
        lane: The sub-environment, -1 if unknown.
        line: The error in one line.
        trace: Its traceback, or ''.
        seed: Seed of its last reset, if known.
        also: Other sub-environments of the same worker process, which begin episodes too.
    """

    def __init__(self, lane: int, line: str, trace: str = ""):
        super().__init__(line)
        self.lane, self.line, self.trace = lane, line, trace
        self.seed: int | None = None
        self.also: tuple[int, ...] = ()

    def without_restarts(self, restarts: int) -> "LaneFailure":
        """Returns this failure. Its line says that all restarts are used up, if there were any."""
        if restarts:
            self.line += f". All {restarts} restarts of --restart-envs are used up"
        return self


class HungError(Exception):
    """Raised inside an environment that does not return, to end the call; one line."""


def explain(
    envs: VectorEnv, error: BaseException, what: str, steps: np.ndarray, seed: int | None,
    action: np.ndarray,
) -> EnvError:  # fmt: skip
    """Returns an EnvError with the context of an exception.

    Args:
        envs: The vector environment that raised.
        error: The exception.
        what: Name of the call, reset or step.
        steps: int64[N], steps of each sub-environment so far.
        seed: Seed of the first sub-environment, if any.
        action: int64[N], the last actions.
    """
    inner = envs.unwrapped
    failure = error if isinstance(error, LaneFailure) else _failing_lane(inner, error)
    own_seeds = isinstance(inner, SyncVectorEnv | AsyncVectorEnv)
    if failure.seed is not None:
        seed, own_seeds = failure.seed, False
    place = _name_place(failure.lane, what, steps, seed, own_seeds, action)
    explained = EnvError(f"{place}: {failure.line}")
    explained.trace = failure.trace
    return explained


def own_trace(error: BaseException) -> str:
    """Formats the traceback from the environment's own frames on, without the frames above.

    Returns '' for an error that was raised here about a result.
    """
    if isinstance(error, ResultError):
        return ""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_CALLERS):
        own = own.tb_next
    return "".join(traceback.format_exception(type(error), error, own or error.__traceback__))


def how_it_ended(exit_code: int | None) -> str:
    """Describes how a process ended, from its exit code."""
    if exit_code is None:
        return "its worker process does not respond"
    if exit_code >= 0:
        return f"its worker process exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "unknown"
    return f"its worker process was killed by signal {-exit_code} ({name})"


def one_line(error: BaseException) -> str:
    """Returns the type and message of an exception without line breaks."""
    if isinstance(error, SentError | HungError | ResultError):
        return str(error)
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # str() of a user-defined exception may raise
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def misfit(space: spaces.Space, obs: Any) -> str | None:
    """Returns why an observation does not fit its space for batching, in one line, or None."""
    for path, leaf in leaves(space):
        at = "".join(f"[{key!r}]" for key in path)
        try:
            part = obs
            for key in path:
                part = part[key]
        except (LookupError, TypeError):
            return f"an observation has no {at}, which is part of its space {short(space)}"
        try:
            given, shape = np.asarray(part), leaf.shape or ()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # its __array__() may raise anything
            return f"an observation{at} cannot be converted to an array: {one_line(error)}"
        if leaf.dtype is None:  # not an array space: rejected by ObsReader
            continue
        if given.shape != shape or not np.can_cast(given.dtype, leaf.dtype, "same_kind"):
            return (
                f"an observation{at} has dtype {given.dtype} and shape {given.shape}, but its "
                f"space has dtype {leaf.dtype} and shape {shape}"
            )
    return None


def _failing_lane(envs: VectorEnv, error: BaseException) -> LaneFailure:
    """Returns the sub-environment that failed, from the loop variable i of SyncVectorEnv."""
    unknown = LaneFailure(-1, one_line(error), own_trace(error))
    if not isinstance(envs, SyncVectorEnv):
        return unknown
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_code.co_filename for frame in frames]
    if space_utils.__file__ in files and _HOME in files:  # it failed to batch observations
        return next(_misfits(envs), unknown)
    return LaneFailure(_lane_of_loop(frames), unknown.args[0], unknown.trace)


def explain_hang(
    envs: VectorEnv, frames: list[FrameType], line: str, what: str, steps: np.ndarray,
    seed: int | None, action: np.ndarray,
) -> EnvError:  # fmt: skip
    """Returns an EnvError for a call that does not return, from its stack, outermost first.

    See explain() for the other arguments.
    """
    inner = envs.unwrapped
    lane = _lane_of_loop(frames) if isinstance(inner, SyncVectorEnv) else -1
    failure = LaneFailure(lane, line)
    failure.trace = trace_of(frames)
    return explain(envs, failure, what, steps, seed, action)


def trace_of(frames: list[FrameType]) -> str:
    """Formats the stack of a thread; '' if there are no frames."""
    return "".join(traceback.format_stack(frames[-1])) if frames else ""


def _lane_of_loop(frames: list[FrameType]) -> int:
    """Returns the sub-environment in SyncVectorEnv's loop, or -1 if the frames are elsewhere."""
    own = (frame for frame in frames if frame.f_code.co_filename == _HOME)
    return next((frame.f_locals.get("i", -1) for frame in own), -1)


def _misfits(envs: SyncVectorEnv) -> Iterator[LaneFailure]:
    """Yields the sub-environments whose last observation does not fit the space."""
    for lane, obs in enumerate(getattr(envs, "_env_obs", ())):
        if line := misfit(envs.single_observation_space, obs):
            yield LaneFailure(lane, line)


def _name_place(
    lane: int, what: str, steps: np.ndarray, seed: int | None, own_seeds: bool, action: np.ndarray
) -> str:
    """Returns the context of a failure: sub-environment, step, seed and last action.

    lane is -1 if unknown. own_seeds: sub-environment i was seeded with seed + i.
    """
    if lane < 0:
        return f"the environments failed in {what}() after {steps.max()} steps" + (
            "" if seed is None else f" (seed {seed})"
        )
    context = [] if seed is None else [f"seed {seed + lane if own_seeds else seed}"]
    if what == "step":
        context.append(f"last action {action[lane]}")
    where = "reset" if what == "reset" else f"step {steps[lane] + 1}"
    return f"env {lane}, {where}" + (f" ({', '.join(context)})" if context else "")
