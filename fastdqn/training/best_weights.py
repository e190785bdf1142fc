"""Judge: what evaluations decide: which weights are the best, and whether the task is solved."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastdqn.state_dict import State, take, take_count, take_number, take_state
from fastdqn.training.evaluation import Evaluation


class Solved(NamedTuple):
    """threshold  mean return that two evaluations reached; steps, seconds  when they did."""

    threshold: float
    steps: int
    seconds: float


class EvaluationRecorder(Protocol):
    def evaluation(self, steps: int, kind: str, evaluation: Evaluation) -> None: ...


class Judge:
    """Evaluates the acting weights when the loop says so.

    evaluate      evaluates the weights as they are now, on seeds that are fresh for each kind
                  ('eval' or 'confirm') and number
    threshold     mean return that counts as solved, or None
    process_age   seconds since the process started
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

    def judge(self, steps: int) -> bool:
        """Evaluate; True once solved. is_best then says whether no weights before were better.

        A mean that reaches the threshold was selected among many: it counts only when a second
        evaluation on fresh seeds reaches it too, and the pooled mean then ranks the weights.
        """
        mean = self._mean("eval", steps)
        if self._threshold is not None and mean >= self._threshold:
            confirmed = self._mean("confirm", steps)
            if confirmed >= self._threshold:
                self.solved = Solved(self._threshold, steps, self._process_age())
            mean = (mean + confirmed) / 2
        self._count += 1
        # Of equals the later: it has learned for longer, as where nothing is reached for long.
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
        """Go on from a state. Raises StateError."""
        unjudged = take(state, "best_mean") is None
        self.best_mean = None if unjudged else take_number(state, "best_mean")
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
        mean = float(evaluation.returns.mean())  # before anyone can write to the returns
        self._recorder.evaluation(steps, kind, evaluation)
        return mean
