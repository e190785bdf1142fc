"""Progress: counters of a run, and why it ended."""

import math
from dataclasses import dataclass
from typing import Any

from fastdqn.state_dict import State, StateError, take, take_count, take_truth, word

INTERRUPTED, SOLVED, SPENT = "interrupted", "solved", "budget spent"
_STORED = (
    "steps", "episodes", "updates", "before", "now", "owes_evaluation", "closed",
    "restarted_envs", "ended", "prefilled",
)  # fmt: skip


@dataclass
class Progress:
    """Counters of a run.

    Attributes:
        steps: Environment steps.
        episodes: Finished episodes.
        updates: Gradient steps.
        before: Counted steps before the last turn of the loop.
        now: Counted steps after it; updates for the difference are due.
        owes_evaluation: Whether an evaluation is due and not finished.
        closed: Whether the remaining updates at the end have been made.
        restarted_envs: Restarts of failed sub-environments.
        prefilled: Transitions in the replay before the first step.
        ended: Why the run ended, if only a larger budget can continue it: solved or budget spent.
        policy, replay, learner: The parts of the run, which callbacks may read and keep. A change
            of theirs is not part of what fastdqn promises.
    """

    steps: int = 0
    episodes: int = 0
    updates: int = 0
    before: int = 0
    now: int = 0
    owes_evaluation: bool = False
    closed: bool = False
    restarted_envs: int = 0
    ended: str = ""
    prefilled: int = 0
    policy: Any = None
    replay: Any = None
    learner: Any = None

    def __post_init__(self):
        self._logged: dict[str, tuple[float, int]] = {}  # sum and number of values of each name

    def log(self, name: str, value: float) -> None:
        """Records a number of the user's in the next metrics row, as the mean since the last row.

        Raises:
            ValueError: The name is empty, or the value is not a finite number.
        """
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ValueError(f"name is {name!r:.60}: it must be a text such as my/metric")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"value of {name} is {value!r:.60}: it must be a finite number")
        total, count = self._logged.get(name, (0.0, 0))
        self._logged[name] = total + number, count + 1

    def take_logged(self) -> dict[str, float]:
        """Returns the means of what was logged since the last call."""
        means = {name: total / count for name, (total, count) in self._logged.items()}
        self._logged.clear()
        return means

    def state(self) -> State:
        return {name: getattr(self, name) for name in _STORED}

    def load_state(self, state: State) -> None:
        for name in ("steps", "episodes", "updates", "before", "now"):
            setattr(self, name, take_count(state, name))
        if not self.before <= self.now <= self.steps:  # otherwise too many updates would be due
            raise StateError(
                f"now is {self.now}, must be from before, {self.before}, to steps, {self.steps}"
            )
        older = {"restarted_envs": state.get("restarted_lanes", 0)}  # its earlier name
        self.restarted_envs = take_count(older | state, "restarted_envs")
        self.prefilled = take_count({"prefilled": 0} | state, "prefilled")  # older runs lack it
        self.owes_evaluation = take_truth(state, "owes_evaluation")
        self.closed = take_truth(state, "closed")
        self.ended = word(take(state, "ended"), ("", SOLVED, SPENT), "ended")
