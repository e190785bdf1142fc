"""Progress: how far a run is, and why it is over."""

from dataclasses import asdict, dataclass

from fastdqn.state_dict import State, StateError, take, take_count, take_truth, word

INTERRUPTED, SOLVED, SPENT = "interrupted", "solved", "budget spent"


@dataclass
class Progress:
    """What has been done so far: environment steps, finished episodes, updates.

    before, now  the steps that count, around the last turn of the loop: what they earned is due
    owes_evaluation  whether one was due and is not over
    closed  whether the updates still due at the end are made
    restarted_envs  how often a sub-environment failed and was restarted
    ended  why the run is over, where only a larger budget takes it further: solved, budget spent
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

    def state(self) -> State:
        return asdict(self)

    def load_state(self, state: State) -> None:
        for name in ("steps", "episodes", "updates", "before", "now"):
            setattr(self, name, take_count(state, name))
        if not self.before <= self.now <= self.steps:  # updates would be due that nobody earned
            raise StateError(f"now is {self.now}: from before, {self.before}, to steps")
        older = {"restarted_envs": state.get("restarted_lanes", 0)}  # its name before 0.2
        self.restarted_envs = take_count(older | state, "restarted_envs")
        self.owes_evaluation = take_truth(state, "owes_evaluation")
        self.closed = take_truth(state, "closed")
        self.ended = word(take(state, "ended"), ("", SOLVED, SPENT), "ended")
