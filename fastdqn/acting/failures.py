"""Failures of environments, told so that they can be repeated: lane, seed, action, traceback."""

import os
import signal
import traceback

from gymnasium.vector import SyncVectorEnv, VectorEnv

_CALLERS = tuple(
    os.path.dirname(file) + os.sep for file in (__file__, SyncVectorEnv.step.__code__.co_filename)
)


class NonFiniteError(ValueError):
    """NaN or infinity came out of an environment."""


class EnvError(RuntimeError):
    """An environment raised, died, or does not do what its interface promises.

    trace  traceback of what it raised, from its own process if it has one; '' if it did not
    """

    trace: str = ""


class LaneFailure(Exception):
    """What one lane's process raised, or how it ended: the lane, a line, its traceback."""

    def __init__(self, lane: int, line: str, trace: str = ""):
        super().__init__(line)
        self.lane, self.line, self.trace = lane, line, trace


def explain(envs: VectorEnv, error: BaseException) -> LaneFailure:
    """Say which lane an exception out of envs came from (-1: nobody knows), and what it was."""
    if isinstance(error, LaneFailure):
        return error
    return LaneFailure(_failing_lane(envs.unwrapped, error), one_line(error), _own_trace(error))


def _own_trace(error: BaseException) -> str:
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
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failing_lane(envs: VectorEnv, error: BaseException) -> int:
    """The lane that a SyncVectorEnv was at: the loop's own variable i says so."""
    if not isinstance(envs, SyncVectorEnv):
        return -1
    home = SyncVectorEnv.step.__code__.co_filename
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame, inner in zip(frames, [*frames[1:], None], strict=True):
        if frame.f_code.co_filename == home and "i" in frame.f_locals:
            if inner is not None and inner.f_code.co_name == "concatenate":  # after the loop
                return _misfit(envs)
            return frame.f_locals["i"]
    return -1


def _misfit(envs: SyncVectorEnv) -> int:
    """The first lane whose last observation is not of its space, or -1."""
    for lane, obs in enumerate(getattr(envs, "_env_obs", ())):
        if obs not in envs.single_observation_space:
            return lane
    return -1
