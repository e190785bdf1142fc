"""Progress: counters of a run, and why it ended."""

import math
from dataclasses import dataclass
from typing import Any

from fastdqn.config.recorded_numbers import metric_problem
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
        info_keys: Keys of info that the run records, under names that log() does not take.
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
    info_keys: tuple[str, ...] = ()
    policy: Any = None
    replay: Any = None
    learner: Any = None

    def __post_init__(self):
        self._logged: dict[str, tuple[float, int]] = {}  # mean and number of values

    def log(self, name: str, value: float) -> None:
        """Records a number of the user's in the next metrics row, as the mean since the last row.

        Raises:
            ValueError: The name is empty or that of a metric of the run, or the value is not a
                finite number.
        """
        if line := metric_problem(name, self.info_keys):
            raise ValueError(line)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"value of {name} is {_short(value)}: it must be a finite number")
        mean, count = self._logged.get(name, (0.0, 0))
        count += 1
        # The sum of the values may exceed the largest float.
        self._logged[name] = mean + (number / count - mean / count), count

    def take_logged(self) -> dict[str, float]:
        """Returns the means of what was logged since the last call."""
        means = {name: mean for name, (mean, _) in self._logged.items()}
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


def _short(value: Any) -> str:
    """Returns repr(value), cut to 60 characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # an integer with more digits than Python prints
        return "a huge number"
