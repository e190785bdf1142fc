"""Workloads: what every peer is asked to do, and how much of it is measured."""

from dataclasses import dataclass
from typing import NamedTuple

from peers.catalogue import Lanes

ENV_ID = "CartPole-v1"
HIDDEN_SIZES = (120, 84)
# Of an MLP 4-120-84-2 with biases: a peer that trains another network is found out by its size.
PARAMETERS = 4 * 120 + 120 + 120 * 84 + 84 + 84 * 2 + 2
LEARNING_RATE = 2.5e-4
GAMMA = 0.99
BUFFER_SIZE = 10_000
LEARNING_STARTS = 10_000
TARGET_FREQUENCY = 500
INITIAL_EPSILON, FINAL_EPSILON = 1.0, 0.05
EPSILON_STEPS = 250_000
# What a run is set up for, as the workload says; the window ends it as soon as it is measured.
TOTAL_STEPS = 500_000

# All peers finish whole calls and whole bursts of updates in this many steps: 64 lanes, 10 lanes,
# and 8 lanes at one update per 10 steps (which is 4 updates per 5 calls).
ALIGNED_STEPS = 640
# Where the clock starts: learning began 2,160 steps before, so compilers and caches are warm.
START_STEPS = 19 * ALIGNED_STEPS


@dataclass(frozen=True)
class Workload:
    """A batch size and how many environment steps an update waits for."""

    name: str
    batch_size: int
    steps_per_update: int

    @property
    def samples_per_step(self) -> float:
        return self.batch_size / self.steps_per_update


# C: CleanRL's dqn.py on CartPole-v1. D: fewer and larger updates, as many lanes allow.
WORKLOADS = {"C": Workload("C", 128, 10), "D": Workload("D", 512, 64)}


def epsilon(steps: int) -> float:
    """Chance of a random action after this many steps."""
    share = min(1.0, steps / EPSILON_STEPS)
    return INITIAL_EPSILON + share * (FINAL_EPSILON - INITIAL_EPSILON)


class Task(NamedTuple):
    """One measurement of one peer, as a process of its own is told it.

    total_steps  that the run is set up for; the window ends it before
    """

    workload: Workload
    lanes: Lanes
    total_steps: int
    threads: int
    seed: int


class Outcome(NamedTuple):
    """What a peer says of itself when it is done.

    counted_updates    by its own counter, the one that the window was told
    optimizer_updates  by the state of its optimizer, which cannot count what it did not do
    parameters         of the network that it trained
    phase_seconds      where the time of the window went, if it knows
    """

    counted_updates: int
    optimizer_updates: int
    parameters: int
    phase_seconds: dict[str, float] | None = None
