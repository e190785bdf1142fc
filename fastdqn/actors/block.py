"""Block: consecutive steps of one actor's environments, as arrays that travel together."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastdqn.envs.step import Step

_OF_TRANSITIONS = ("lanes", "action", "reward", "terminated", "truncated", "next_obs", "next_mask")
_OF_STARTS = ("start_lanes", "start_obs", "start_mask")
_OF_ENDS = ("ended_lanes", "returns", "lengths")


class Priorities(NamedTuple):
    """Initial priorities of the windows that each step completed.

    Attributes:
        lane: int64[P].
        row: int64[P], counted in its lane from the first row of this actor's process.
        priority: float32[P].
        ends: int64[T], the end of each step's entries.
    """

    lane: np.ndarray
    row: np.ndarray
    priority: np.ndarray
    ends: np.ndarray


class Block(NamedTuple):
    """T steps of the environments of one actor.

    Attributes:
        actor: Number of the actor.
        incarnation: How often its process was replaced before.
        number: Number of the block in this process, from 0.
        steps: The arrays of all steps, one after another. Lanes are those of the whole run.
        ends: int64[3, T], the ends of each step's transitions, episode starts and episode ends.
        priorities: Initial priorities, or None.
        acting_seconds: Time in which the block was made.
        waiting_seconds: Time before it, in which the actor waited for a request.
        produced: Transitions of this process so far.
        warnings: New warnings of its environments.
    """

    actor: int
    incarnation: int
    number: int
    steps: Step
    ends: np.ndarray
    priorities: Priorities | None
    acting_seconds: float
    waiting_seconds: float
    produced: int
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        arrays = [*self.steps, *(self.priorities or ()), *(self.steps.info or {}).values()]
        return sum(getattr(each, "nbytes", 0) for each in arrays)


class Failure(NamedTuple):
    """Why an actor cannot go on: an error of its environments, which a restart would meet again.

    Attributes:
        kind: Name of the error's class.
        line: The error in one line.
        trace: Its traceback.
    """

    kind: str
    line: str
    trace: str


def copied(step: Step, first_lane: int) -> Step:
    """Returns a step of an actor with arrays of its own, and with the lanes of the whole run."""

    def copy(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: each.copy() for key, each in value.items()}
        if value is None:
            return None
        return value + first_lane if name.endswith("lanes") else value.copy()

    return Step(**{name: copy(name, value) for name, value in step._asdict().items()})


def join(steps: Sequence[Step]) -> tuple[Step, np.ndarray]:
    """Returns the arrays of steps one after another, and their ends, int64[3, T]."""
    counts = [(len(s.lanes), len(s.start_lanes), len(s.ended_lanes)) for s in steps]
    fields = {}
    for name in (*_OF_TRANSITIONS, *_OF_STARTS, *_OF_ENDS):
        given = [getattr(step, name) for step in steps]
        fields[name] = None if given[0] is None else np.concatenate(given)
    return Step(**fields, info=_join_info(steps)), np.cumsum(counts, axis=0).T


def split(block: Block) -> Iterator[Step]:
    """Yields the steps of a block, as views of its arrays."""
    ends = np.concatenate([np.zeros((3, 1), np.int64), block.ends], axis=1)
    fields = block.steps._asdict()
    for made, begun, over in zip(*(pairwise(each.tolist()) for each in ends), strict=True):
        of = {}
        for names, (first, last) in (
            (_OF_TRANSITIONS, made), (_OF_STARTS, begun), (_OF_ENDS, over),
        ):  # fmt: skip
            for name in names:
                of[name] = None if fields[name] is None else fields[name][first:last]
        info = block.steps.info
        if info is not None and over[0] < over[1]:
            of["info"] = {key: each[over[0] : over[1]] for key, each in info.items()}
        yield Step(**of)


def _join_info(steps: Sequence[Step]) -> dict[str, np.ndarray] | None:
    """Returns the info of all episode ends by key, NaN where a step has not the key."""
    ended = [step for step in steps if len(step.ended_lanes)]
    keys = dict.fromkeys(key for step in ended for key in step.info or {})
    if not keys:
        return None
    return {
        key: np.concatenate(
            [(step.info or {}).get(key, np.full(len(step.ended_lanes), np.nan)) for step in ended]
        )
        for key in keys
    }
