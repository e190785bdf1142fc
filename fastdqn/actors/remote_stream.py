"""RemoteStream: the steps of actors, in the place of a stream of this process."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray

from fastdqn.actors.block import Block, Priorities, join, split
from fastdqn.actors.pool import ActorPool, Request
from fastdqn.envs import EnvError, EnvFacts, Step
from fastdqn.replay import Replay
from fastdqn.state_dict import State


class _LostActors:
    """Stands for EnvCalls: holds the errors of actors that were replaced."""

    def __init__(self, lost: list[EnvError]):
        self.lost = lost


class RemoteStream:
    """The steps of all actors, one at a time, in the order in which their blocks arrive.

    A step has the environments of one actor. An actor that replaces a lost one begins with the
    episode starts of all of its environments, which close the episodes that were open.

    Attributes:
        lanes, obs, mask, warnings, num_lanes, num_ready, facts, env_calls: As of an EnvStream.
        produced: Transitions that actors have made so far, as far as their blocks say.
        stored: Transitions that recv() has returned.

    Args:
        pool: The actors.
        facts: Of their environments.
        num_lanes: Environments of all actors.
        num_actors: Number of actors.
        weights_frequency: Updates between two sets of weights that actors receive.
    """

    def __init__(
        self, pool: ActorPool, facts: EnvFacts, num_lanes: int, num_actors: int,
        weights_frequency: int,
    ):  # fmt: skip
        self.pool, self.facts, self.num_lanes = pool, facts, num_lanes
        self.num_ready, self.num_actors = num_lanes, num_actors
        self.lanes = np.arange(num_lanes)
        self.obs = np.zeros((num_lanes, *facts.obs_shape), facts.obs_dtype)
        self.mask: np.ndarray | None = None
        self.warnings: list[str] = []
        self.env_calls: Any = _LostActors(pool.replaced)
        self.initial = InitialPriorities()
        self.stored = self.nbytes = self.blocks = 0
        self.acting_seconds = self.waiting_seconds = 0.0
        self._produced: dict[tuple[int, int], int] = {}
        self._every, self._sent, self._version = weights_frequency, -1, -1
        self._weights: Any = None
        self._weights_bytes = 0
        self._steps: Iterator[Step] = iter(())
        self._learner: Callable[[], tuple[int, Callable[[], np.ndarray]]] | None = None
        self._epsilon: Callable[[], Any] = lambda: 1.0

    @property
    def produced(self) -> int:
        return sum(self._produced.values())

    def connect(
        self,
        learner: Callable[[], tuple[int, Callable[[], np.ndarray]]],
        epsilon: Callable[[], Any],
    ) -> None:
        """Says what actors act with.

        Args:
            learner: Returns the number of updates, and a function that copies all weights.
            epsilon: Returns one number, or float64[N].
        """
        self._learner, self._epsilon = learner, epsilon

    def start(self, seed: int | None = None) -> Step:
        """Starts the actors. Returns the episode starts of all environments."""
        starts = self.pool.start()
        step = join([start for start, _ in starts])[0]
        self.initial.begin(step)
        self.obs[step.start_lanes] = step.start_obs
        if any(has_masks for _, has_masks in starts):
            assert step.start_mask is not None
            self.mask = step.start_mask[np.argsort(step.start_lanes)]
        return step

    def recv(self) -> Step | None:
        """Returns the next step of an actor, and waits for its block if none is there.

        It returns None if the run was asked to stop while it waited.

        Raises:
            ClusterLostError, EnvError, NonFiniteError: As ActorPool.receive().
        """
        while True:
            if (step := next(self._steps, None)) is not None:
                self.stored += len(step.lanes)
                self.initial.step()
                return step
            if (found := self.pool.receive(self._request)) is None:
                return None
            block, start = found
            if start is not None:
                self.initial.begin(start)
                return start
            assert block is not None
            self._count(block)
            self.initial.of(block.priorities)
            self._steps = split(block)

    def figures(self) -> dict[str, Any]:
        """Returns what the summary of a run says about its actors."""
        time = self.acting_seconds + self.waiting_seconds
        return {
            "actors": self.num_actors,
            "blocks": self.blocks,
            "bytes": self.nbytes,
            "weights_bytes": self._weights_bytes,
            "transitions_produced": self.produced,
            "transitions_stored": self.stored,
            "acting_seconds": self.acting_seconds,
            "waiting_seconds": self.waiting_seconds,
            "waiting_share": self.waiting_seconds / time if time else 0.0,
        }

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> bool:
        """Returns False: the environments of actors are reset when a run is resumed."""
        return False

    def close(self) -> None:
        """Ends the actors."""
        self.pool.close()

    def _count(self, block: Block) -> None:
        self._produced[block.actor, block.incarnation] = block.produced
        self.blocks, self.nbytes = self.blocks + 1, self.nbytes + block.nbytes
        self.acting_seconds += block.acting_seconds
        self.waiting_seconds += block.waiting_seconds
        self.warnings += [f"actor {block.actor}: {line}" for line in block.warnings]

    def _request(self) -> Request:
        """Returns what actors receive now; new weights if enough updates were made."""
        assert self._learner is not None, "connect() comes first"
        updates, weights = self._learner()
        if self._sent < 0 or updates - self._sent >= self._every:
            sent = weights()
            self._weights, self._sent, self._weights_bytes = ray.put(sent), updates, sent.nbytes
            self._version += 1
        return Request(self._weights, self._version, self._epsilon())


class InitialPriorities:
    """Gives new windows the priorities that actors computed for them, as the rows are stored.

    A follower of the run: each step was added to the replay before.
    """

    def __init__(self):
        self.replay: Replay | None = None
        self._first = np.empty(0, np.int64)  # row of each lane that its actor counts as 0
        self._begun: list[Step] = []
        self._given: Priorities | None = None
        self._at = 0

    def begin(self, step: Step) -> None:
        """A new process begins with this step."""
        self._begun.append(step)

    def of(self, priorities: Priorities | None) -> None:
        """The next steps are those of a block with these priorities."""
        self._given, self._at = priorities, -1

    def step(self) -> None:
        """The next step of the block is on its way."""
        self._at += 1

    def follow(self, step: Step) -> None:
        """Sets the priorities of the windows that a step, which was stored, has completed."""
        if self.replay is None:
            self._begun.clear()
            return
        added = self.replay.ring.added
        if not len(self._first):
            self._first = np.zeros(self.replay.ring.num_lanes, np.int64)
        if self._begun and step is self._begun[0]:
            lanes = self._begun.pop(0).start_lanes
            self._first[lanes] = added[lanes] - self.replay.ring.stack
            return
        if self._given is None:
            return
        ends = self._given.ends
        first, last = (ends[self._at - 1] if self._at else 0), ends[self._at]
        lanes = self._given.lane[first:last]
        rows = self._given.row[first:last] + self._first[lanes]
        if len(lanes):
            self.replay.update_priorities(
                rows * self.replay.ring.num_lanes + lanes, self._given.priority[first:last]
            )

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """Does nothing: after a resume, actors begin anew."""
