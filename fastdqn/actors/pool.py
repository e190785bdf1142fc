"""ActorPool: the actors of a run on a Ray cluster, with a limited number of blocks in flight."""

import collections
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import ray
from ray import exceptions

from fastdqn.actors.block import Block, Failure
from fastdqn.cluster.connection import answers, is_member, raylet_answers
from fastdqn.envs import EnvError, NonFiniteError, Step
from fastdqn.system.standard_streams import print_error

# Seconds of one wait for a block, between two looks at the cluster. Ours, untuned.
_LOOK = 1.0
# Seconds between two questions to the cluster, and those that the head node may not answer before
# it counts as gone.
_ASK, _UNANSWERED = 2.0, 5
# Seconds between two looks at Ray's process of this machine, without which Ray ends this one.
_LOOK_HERE = 0.25
# Seconds without a block after which the run says what it waits for.
_SILENCE = 60.0
# Least seconds without a block that end a run while an actor starts. Ours, untuned.
_START_SECONDS = 120.0
# What Ray raises for an actor whose process or machine is gone, or whose block was lost with it.
_LOST = (
    exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError,
    exceptions.WorkerCrashedError, exceptions.GetTimeoutError, exceptions.RaySystemError,
)  # fmt: skip
_KINDS = {"NonFiniteError": NonFiniteError}


class ActorsLostError(EnvError):
    """The actors of a run are gone, and what was stored before is whole."""

    resumable = True


class ClusterLostError(ActorsLostError):
    """The Ray cluster of a run is gone."""


class Request(NamedTuple):
    """What actors receive with a request for a block.

    Attributes:
        weights: Reference to all weights and buffers of the online network, float32[P + Q].
        version: Number of these weights.
        epsilon: One number, or float64[N] for the environments of all actors.
    """

    weights: Any
    version: int
    epsilon: Any


@dataclass
class _Member:
    """One actor: its process, and the requests that it has not answered."""

    actor: int
    incarnation: int = -1
    handle: Any = None
    started: Any = None  # reference to its first step, until it was received
    blocks: collections.deque = field(default_factory=collections.deque)
    number: int = 0  # of the next block
    version: int = -1  # of the last weights that were sent


class ActorPool:
    """Actors that answer requests in order, each with at most blocks_in_flight unanswered ones.

    Attributes:
        replaced: Errors of lost actors, which were replaced. The caller removes them.
        dropped: Blocks that were not used, since their key was not the expected one.
        say: Prints a line.
        stops: Returns whether the run was asked to stop, which ends a wait for blocks.

    Args:
        make: Starts the process of (actor, incarnation), and returns its handle.
        seed: Returns the seed of an incarnation's environments.
        count: Number of actors.
        blocks_in_flight: At most this many blocks of an actor are requested or wait to be used.
        restarts: Actors that may be replaced in total.
        head: Address of the cluster's head node.
        patience: Seconds without any block that end the run. None: no limit.
    """

    def __init__(
        self,
        make: Callable[[int, int], Any],
        seed: Callable[[int, int], int],
        count: int,
        blocks_in_flight: int,
        restarts: int,
        head: str,
        patience: float | None,
    ):
        self._make, self._seed, self._head = make, seed, head
        self._blocks_in_flight, self._patience = blocks_in_flight, patience
        self._restarts = restarts
        self._members = [_Member(actor) for actor in range(count)]
        self._left = restarts
        self.replaced: list[EnvError] = []
        self.dropped = 0
        self.say: Callable[[str], None] = print_error
        self.stops: Callable[[], bool] = lambda: False
        self._asked = self._looked = time.monotonic()
        self._unanswered = 0

    def start(self) -> list[tuple[Step, bool]]:
        """Starts all actors. Returns the first step of each, and whether it has masks."""
        for member in self._members:
            self._begin(member)
        starts, began, warned = [], time.monotonic(), False
        for member in self._members:
            while (found := self._first_step(member)) is None:
                warned = self._says_why(time.monotonic() - began, warned)
            starts.append(found)
            member.started = None
        return starts

    def receive(
        self, request: Callable[[], Request]
    ) -> tuple[Block, None] | tuple[None, Step] | None:
        """Returns the next block, or the first step of an actor that replaces a lost one.

        It returns None if the run was asked to stop.

        Args:
            request: Returns what actors receive now.

        Raises:
            ClusterLostError: The cluster is gone.
            EnvError, NonFiniteError: The environments of an actor fail, or actors are lost more
                often than they may be replaced.
        """
        began, warned = time.monotonic(), False
        while not self.stops():
            self._check_head()
            member = self._answered(request)
            if member is None:
                warned = self._waits_since(began, warned)
                continue
            if member.started is not None:
                found = self._received(member, member.started)
                if found is not None:
                    member.started = None
                    return None, found[0]
                continue
            block = self._received(member, member.blocks[0])
            if block is None:  # lost, and replaced
                continue
            member.blocks.popleft()
            if (block.actor, block.incarnation, block.number) != self._expected(member):
                self.dropped += 1
                continue
            member.number += 1
            # The next actor is looked at first, so that none waits for the others.
            at = self._members.index(member) + 1
            self._members = self._members[at:] + self._members[:at]
            return block, None
        return None

    def close(self) -> None:
        """Ends all actors, without waiting for what they do."""
        if ray.is_initialized() and is_member(self._head):
            for member in self._members:
                if member.handle is not None:
                    ray.kill(member.handle)
        for member in self._members:
            member.handle = None

    def _expected(self, member: _Member) -> tuple[int, int, int]:
        return member.actor, member.incarnation, member.number

    def _begin(self, member: _Member) -> None:
        member.incarnation += 1
        member.blocks.clear()
        member.number, member.version = 0, -1
        member.handle = self._make(member.actor, member.incarnation)
        member.started = member.handle.start.remote(self._seed(member.actor, member.incarnation))

    def _first_step(self, member: _Member) -> Any:
        """Returns the answer to the start of an actor. None: it has not answered, or is new."""
        if ray.wait([member.started], timeout=_LOOK)[0]:
            return self._received(member, member.started)
        self._check_head()
        return None

    def _answered(self, request: Callable[[], Request]) -> _Member | None:
        """Asks for blocks. Returns the first member in line that has answered, or None.

        Raises:
            ActorsLostError: Ray fails, such as without room for weights.
        """
        try:
            self._ask_for_blocks(request)
            return self._first_answered()
        except (exceptions.RayError, OSError) as error:
            self._require_cluster()
            raise ActorsLostError(
                f"the Ray cluster at {self._head} has failed: {_line(error)}"
            ) from error

    def _ask_for_blocks(self, request: Callable[[], Request]) -> None:
        asked = None
        for member in self._members:
            while member.started is None and len(member.blocks) < self._blocks_in_flight:
                asked = asked or request()
                epsilon = self._share(member, asked.epsilon)
                weights = None if member.version == asked.version else asked.weights
                member.version = asked.version
                member.blocks.append(member.handle.collect.remote(weights, asked.version, epsilon))

    def _share(self, member: _Member, epsilon: Any) -> Any:
        """Returns what concerns the environments of one actor."""
        if not isinstance(epsilon, np.ndarray):
            return epsilon
        each = len(epsilon) // len(self._members)
        return epsilon[member.actor * each : (member.actor + 1) * each]

    def _first_answered(self) -> _Member | None:
        """Returns the first member in line whose oldest request was answered or failed."""
        oldest = [m.blocks[0] if m.started is None else m.started for m in self._members]
        ready, _ = ray.wait(oldest, num_returns=1, timeout=_LOOK)
        return self._members[oldest.index(ready[0])] if ready else None

    def _received(self, member: _Member, reference: Any) -> Any:
        """Returns an answer. Returns None if the actor was lost, and has been replaced."""
        try:
            answer = ray.get(reference)
        except _LOST as error:
            self._replace(member, error)
            return None
        except exceptions.RayTaskError as error:
            raise EnvError(f"actor {member.actor}: {_line(error)}") from error
        if isinstance(answer, Failure):
            error = _KINDS.get(answer.kind, EnvError)(f"actor {member.actor}: {answer.line}")
            if isinstance(error, EnvError):
                error.trace = answer.trace
            raise error
        return answer

    def _replace(self, member: _Member, error: Exception) -> None:
        """Starts a lost actor anew. Raises if no restarts are left, or if the cluster is gone."""
        self._require_cluster()
        if getattr(error, "actor_init_failed", False):  # as each new process would
            raise ActorsLostError(f"actor {member.actor} cannot start: {_last_line(error)}")
        lost = f"actor {member.actor} is gone ({_line(error)})"
        if self._left <= 0:
            used = f". All {self._restarts} restarts of --actor-restarts are used up"
            raise ActorsLostError(lost + used * (self._restarts > 0)) from error
        self._left -= 1
        self.replaced.append(EnvError(f"{lost} and was started anew"))
        with contextlib.suppress(Exception):  # it is gone already
            ray.kill(member.handle)
        self._begin(member)

    def _require_cluster(self) -> None:
        """Raises ClusterLostError if this machine is no longer part of a cluster."""
        if not is_member(self._head):
            raise ClusterLostError(
                f"the Ray cluster at {self._head} is gone: start it again, and resume the run"
            )

    def _check_head(self) -> None:
        """Asks the head node now and then, since actors answer for a while without it."""
        now = time.monotonic()
        if now - self._looked > _LOOK_HERE:
            self._looked = now
            if not raylet_answers():
                self._require_cluster()
        if now - self._asked < _ASK:
            return
        self._unanswered = 0 if answers(self._head, 1.0) else self._unanswered + 1
        self._asked = time.monotonic()
        if self._unanswered > _UNANSWERED:
            self._require_cluster()

    def _waits_since(self, began: float, warned: bool) -> bool:
        """Says once what the run waits for. Raises EnvError if no block arrives for too long."""
        waited, limit = time.monotonic() - began, self._patience
        if limit is not None and any(member.started is not None for member in self._members):
            limit = max(limit, _START_SECONDS)
        if limit is not None and waited > limit:
            raise ActorsLostError(
                f"no actor has sent a block for {waited:.0f} s: its environments hang, or the "
                "cluster has no room for it. Use a larger --max-step-seconds if they are slow"
            )
        return self._says_why(waited, warned)

    def _says_why(self, waited: float, warned: bool) -> bool:
        """Says once what a long wait is for. Returns whether it was said."""
        if waited <= _SILENCE or warned:
            return warned
        free = ray.available_resources().get("CPU", 0.0)
        self.say(
            f"no actor has answered for {waited:.0f} s: {free:g} CPUs of the cluster are free, and "
            "each actor needs one"
        )
        return True


def _last_line(error: Exception) -> str:
    """Returns the last line of Ray's message, which is that of the error in an actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _line(error: Exception) -> str:
    """Returns the first line of Ray's message that says what happened."""
    text = str(getattr(error, "cause", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
