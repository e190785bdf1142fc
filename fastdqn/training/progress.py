"""Progress: counters of a run, and why it ended."""

from dataclasses import asdict, dataclass

from fastdqn.state_dict import State, StateError, take, take_count, take_truth, word

INTERRUPTED, SOLVED, SPENT = "interrupted", "solved", "budget spent"


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

    def state(self) -> State:
        return asdict(self)

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
