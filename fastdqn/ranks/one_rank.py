"""Ranks: what the processes of one run exchange. OneRank is a run of a single process."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class RanksError(RuntimeError):
    """Another rank has ended or does not answer, or the ranks have different weights."""


class Exchanged(NamedTuple):
    """One step of all ranks.

    Attributes:
        steps: Transitions of all ranks.
        ended: The local Step, with the episodes that ended on any rank. Environments are numbered
            over all ranks.
        reason: Why a callback of another turn ended the run, or an empty string.
    """

    steps: int
    ended: Any
    reason: str = ""


class Ranks(Protocol):
    """The processes of one run. All of them make the same calls in the same order.

    Attributes:
        index: Number of this process, from 0. The first one writes the run folder and evaluates.
        local_index: Its number on its machine, which is that of its CUDA device.
        count: Number of processes.
        average: Replaces a tensor by its mean over the ranks; None for one rank.
    """

    index: int
    local_index: int
    count: int

    @property
    def average(self) -> Callable[[Tensor], None] | None: ...

    def prepare(self, num_lanes: int, most_ended: int, info_keys: Sequence[str]) -> None:
        """Allocates the exchange of each turn.

        Args:
            num_lanes: Environments of each rank.
            most_ended: Most episodes that end in one step of a rank.
            info_keys: Keys of Step.info.
        """
        ...

    def exchange(self, step: Any, enter: Callable[[str], None]) -> Exchanged:
        """Exchanges a Step, and the local answers to the questions below, once in each turn.

        enter: Begins a phase of the record.
        """
        ...

    def end(self, reason: str) -> str:
        """Asks all ranks to end the run; returns the reason if it ends now, else ''."""
        ...

    def listen(
        self, stop: Callable[[], bool], checkpoint: Callable[[], bool]
    ) -> tuple[Callable[[], bool], Callable[[], bool]]:
        """Returns whether any rank was asked to stop, and whether any was to save, by exchange."""
        ...

    def writer(
        self, ready: Callable[[], bool], clock: Callable[[], float]
    ) -> tuple[Callable[[], bool], Callable[[], float]]:
        """Returns whether the writers of all ranks are ready, and one clock, by exchange."""
        ...

    def mean(self, *numbers: float) -> Sequence[float]:
        """Returns the means of numbers over the ranks."""
        ...

    def largest(self, number: float) -> float:
        """Returns the largest of the numbers of all ranks."""
        ...

    def require_equal(self, checksum: Callable[[], int], what: str) -> None:
        """Raises RanksError if the checksum differs between the ranks."""
        ...

    def broadcast(self, *tensors: Tensor) -> None:
        """Overwrites tensors by those of the first rank."""
        ...

    def first(self, function: Callable[[], T]) -> T:
        """Calls a function on the first rank; returns its result, which pickle can copy."""
        ...

    def together(self, function: Callable[[], T]) -> T:
        """Calls a function, without exchanges in it, on each rank.

        Raises:
            ConfigError: It raised one on any rank. The first rank has the lines of one that failed.
        """
        ...

    def common(self, names: Sequence[str]) -> str | None:
        """Returns the last of the names that all ranks have, or None."""
        ...

    def in_order(self) -> AbstractContextManager[None]:
        """Within, the other ranks begin after the first has ended."""
        ...

    def folder(self, run: Path) -> Path:
        """Returns the folder of this rank for the run folder of the first rank."""
        ...

    def finish(self) -> None:
        """Waits until all ranks are here, and disconnects them."""
        ...


class OneRank:
    """A run of a single process: nothing is exchanged."""

    index, local_index, count = 0, 0, 1
    average = None

    def prepare(self, num_lanes: int, most_ended: int, info_keys: Sequence[str]) -> None:
        pass

    def exchange(self, step: Any, enter: Callable[[str], None]) -> Exchanged:
        return Exchanged(len(step.lanes), step)

    def end(self, reason: str) -> str:
        return reason

    def listen(
        self, stop: Callable[[], bool], checkpoint: Callable[[], bool]
    ) -> tuple[Callable[[], bool], Callable[[], bool]]:
        return stop, checkpoint

    def writer(
        self, ready: Callable[[], bool], clock: Callable[[], float]
    ) -> tuple[Callable[[], bool], Callable[[], float]]:
        return ready, clock

    def mean(self, *numbers: float) -> Sequence[float]:
        return numbers

    def largest(self, number: float) -> float:
        return number

    def require_equal(self, checksum: Callable[[], int], what: str) -> None:
        pass

    def broadcast(self, *tensors: Tensor) -> None:
        pass

    def first(self, function: Callable[[], T]) -> T:
        return function()

    def together(self, function: Callable[[], T]) -> T:
        return function()

    def common(self, names: Sequence[str]) -> str | None:
        return names[-1] if names else None

    def in_order(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def folder(self, run: Path) -> Path:
        return run

    def finish(self) -> None:
        pass


ONE_RANK: Ranks = OneRank()
