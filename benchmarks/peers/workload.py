"""Workloads: settings for all peers, and the measured part."""

from dataclasses import dataclass
from typing import NamedTuple

from peers.catalogue import Lanes

ENV_ID = "CartPole-v1"
HIDDEN_SIZES = (120, 84)
# Parameters of an MLP 4-120-84-2 with biases, to detect a peer that trains another network.
PARAMETERS = 4 * 120 + 120 + 120 * 84 + 84 + 84 * 2 + 2
LEARNING_RATE = 2.5e-4
GAMMA = 0.99
BUFFER_SIZE = 10_000
LEARNING_STARTS = 10_000
TARGET_FREQUENCY = 500
INITIAL_EPSILON, FINAL_EPSILON = 1.0, 0.05
EPSILON_STEPS = 250_000
# Total steps for schedules. The run ends after the window.
TOTAL_STEPS = 500_000

# A common multiple of the steps per call and per burst of updates of all peers: 64, 10, and 8
# environments at one update per 10 steps (4 updates per 5 calls).
ALIGNED_STEPS = 640
# Start of the window: 2,160 steps after the start of learning, which is enough warm-up.
START_STEPS = 19 * ALIGNED_STEPS


@dataclass(frozen=True)
class Workload:
    """Batch size and environment steps per update."""

    name: str
    batch_size: int
    steps_per_update: int

    @property
    def samples_per_step(self) -> float:
        return self.batch_size / self.steps_per_update


# C: CleanRL's dqn.py on CartPole-v1. D: fewer and larger updates, for many environments.
WORKLOADS = {"C": Workload("C", 128, 10), "D": Workload("D", 512, 64)}


def epsilon(steps: int) -> float:
    """Returns epsilon after this many steps."""
    share = min(1.0, steps / EPSILON_STEPS)
    return INITIAL_EPSILON + share * (FINAL_EPSILON - INITIAL_EPSILON)


class Task(NamedTuple):
    """One measurement of one peer.

    total_steps is the length for schedules. The window ends the run earlier.
    """

    workload: Workload
    lanes: Lanes
    total_steps: int
    threads: int
    seed: int


class Outcome(NamedTuple):
    """Result of a peer.

    Attributes:
        counted_updates: Updates by its counter, which the window uses.
        optimizer_updates: Updates by the state of its optimizer, to verify the counter.
        parameters: Number of parameters of its network.
        phase_seconds: Seconds of each phase in the window, or None.
    """

    counted_updates: int
    optimizer_updates: int
    parameters: int
    phase_seconds: dict[str, float] | None = None
