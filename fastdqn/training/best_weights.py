"""BestWeights: evaluates during training, finds the best weights, and detects a solved task."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastdqn.state_dict import State, take, take_count, take_number, take_state
from fastdqn.training.evaluation import Evaluation


class Solved(NamedTuple):
    """When two evaluations reached `threshold`, a mean return: environment steps and seconds."""

    threshold: float
    steps: int
    seconds: float


class EvaluationRecorder(Protocol):
    def evaluation(self, steps: int, kind: str, evaluation: Evaluation) -> None: ...


class BestWeights:
    """Evaluates the current weights and tracks the best ones.

    Attributes:
        is_best: Whether the last evaluation was the best so far.
        best_mean: Mean return of the best evaluation.
        best_steps: Environment steps at the best evaluation.
        solved: Set once the task is solved.

    Args:
        evaluate: Evaluates the current weights; its arguments, the kind ('eval' or 'confirm') and
            number of the evaluation, select new seeds.
        recorder: Receives every evaluation.
        threshold: Mean return at which the task is solved, or None.
        process_age: Returns seconds since the process started.
    """

    def __init__(
        self,
        evaluate: Callable[[str, int], Evaluation],
        recorder: EvaluationRecorder,
        threshold: float | None,
        process_age: Callable[[], float],
    ):
        self._evaluate, self._recorder = evaluate, recorder
        self._threshold, self._process_age = threshold, process_age
        self.is_best = False
        self.best_mean: float | None = None
        self.best_steps = 0
        self.solved: Solved | None = None
        self._count = 0

    def update(self, steps: int) -> bool:
        """Evaluates; returns whether the task is solved, and sets is_best.

        The first mean to reach the threshold is biased, as it was selected among many. It counts
        only if a second evaluation with new seeds reaches it too. The weights are then ranked by
        the mean of both.
        """
        mean = self._mean("eval", steps)
        if self._threshold is not None and mean >= self._threshold:
            confirmed = self._mean("confirm", steps)
            if confirmed >= self._threshold:
                self.solved = Solved(self._threshold, steps, self._process_age())
            mean = (mean + confirmed) / 2
        self._count += 1
        # Of equal evaluations the later one is best, since its weights were trained for longer.
        self.is_best = self.best_mean is None or mean >= self.best_mean or self.solved is not None
        if self.is_best:
            self.best_mean, self.best_steps = mean, steps
        return self.solved is not None

    def state(self) -> State:
        return {
            "best_mean": self.best_mean,
            "best_steps": self.best_steps,
            "solved": None if self.solved is None else self.solved._asdict(),
            "count": self._count,
        }

    def load_state(self, state: State) -> None:
        """Loads a state dict; raises StateError."""
        is_empty = take(state, "best_mean") is None
        self.best_mean = None if is_empty else take_number(state, "best_mean")
        if take(state, "solved") is None:
            self.solved = None
        else:
            solved = take_state(state, "solved")
            self.solved = Solved(
                take_number(solved, "threshold"),
                take_count(solved, "steps"),
                take_number(solved, "seconds"),
            )
        self.best_steps, self._count = take_count(state, "best_steps"), take_count(state, "count")

    def _mean(self, kind: str, steps: int) -> float:
        evaluation = self._evaluate(kind, self._count)
        mean = float(evaluation.returns.mean())  # first, since a callback may change the array
        self._recorder.evaluation(steps, kind, evaluation)
        return mean
