"""Marks of the training loop: a range for each turn, phase and kernel, for a profiler.

Nothing imports this module in a run without a profiler, so that marks cost nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastdqn.learning.marks import Mark, mark_learner, mark_policy
from fastdqn.training.loop import Run

# The phases of the loop, in the order of a turn. A turn begins with the first.
PHASES = (
    "act", "env", "actors", "sample", "upload", "learn", "prioritize", "store", "report", "hooks",
    "evaluate", "save",
)  # fmt: skip


class PhaseRanges:
    """Ranges of phases inside ranges of turns. It starts at the first turn.

    Args:
        mark: Marks a phase by name.
        mark_turn: Marks turn number n, counted from 0.
    """

    def __init__(self, mark: Mark, mark_turn: Callable[[int], AbstractContextManager[Any]]):
        self._mark, self._mark_turn, self.turns = mark, mark_turn, 0
        self._phase: AbstractContextManager[Any] | None = None
        self._turn: AbstractContextManager[Any] | None = None

    def enter(self, name: str) -> None:
        """Ends the current phase and begins the next, and a new turn if it is the first phase."""
        self._end_phase()
        if name == PHASES[0]:
            self._end_turn()
            self._turn = self._mark_turn(self.turns)
            self._turn.__enter__()
            self.turns += 1
        if self._turn is not None:
            self._phase = self._mark(name)
            self._phase.__enter__()

    def leave(self) -> None:
        """Ends the current phase and turn, if any."""
        self._end_phase()
        self._end_turn()

    def _end_phase(self) -> None:
        if self._phase is not None:
            phase, self._phase = self._phase, None
            phase.__exit__(None, None, None)

    def _end_turn(self) -> None:
        if self._turn is not None:
            turn, self._turn = self._turn, None
            turn.__exit__(None, None, None)


def mark_kernels(run: Run, mark: Mark) -> None:
    """Marks the parts of updates and of policy calls of a run."""
    mark_learner(run.learner, mark)
    mark_policy(run.policy, mark)
