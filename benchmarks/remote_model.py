"""The model of how far actors scale: rates of one actor and of the learner, from a measured run."""

from typing import Any, NamedTuple


class Rates(NamedTuple):
    """What one run with actors says about its parts.

    Attributes:
        actor: Transitions per second of one actor that never waits.
        learner: Transitions per second that the learner could store and learn from.
        bytes_each: Bytes of a block for each of its transitions.
        block: Transitions of a block.
        weights_bytes: Bytes of the weights that an actor receives with each request, at most.
    """

    actor: float
    learner: float
    bytes_each: float
    block: float
    weights_bytes: int

    def expected(self, actors: int) -> float:
        """Returns transitions per second of a run with a number of actors."""
        return min(actors * self.actor, self.learner)

    def traffic(self, actors: int) -> float:
        """Returns bytes per second between actors and learner, at most."""
        return self.expected(actors) * (self.bytes_each + self.weights_bytes / self.block)

    @property
    def saturation(self) -> float:
        """The number of actors from which on the learner bounds the run."""
        return self.learner / self.actor


def rates_of(summary: dict[str, Any]) -> Rates:
    """Returns the rates of a run, from its summary.

    An actor acts for acting_seconds and waits in the rest. The learner waits in the phase actors
    and is busy in all others.
    """
    actors, steps = summary["actors"], summary["total_steps"]
    phases = summary["phase_seconds"]
    busy = sum(seconds for name, seconds in phases.items() if name != "actors")
    acting = actors["acting_seconds"] / actors["transitions_produced"]
    made = actors["transitions_produced"]
    return Rates(
        1.0 / acting, steps / busy, actors["bytes"] / made, made / actors["blocks"],
        actors["weights_bytes"],
    )  # fmt: skip
