"""Builds the actors of a run on a Ray cluster, and what each of them is made of."""

import functools
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from fastdqn.actors.actor import Actor, Parts
from fastdqn.actors.pool import ActorPool
from fastdqn.actors.remote_stream import RemoteStream
from fastdqn.builders import agent, devices
from fastdqn.builders.environments import make_streams
from fastdqn.builders.parts import UserParts
from fastdqn.cluster.connection import connected
from fastdqn.config.schema import ConfigError, ResolvedConfig
from fastdqn.envs import EnvFacts, Factory, Step
from fastdqn.envs.errors import one_line
from fastdqn.kernels.rng import derive
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.precision import float32_by_default
from fastdqn.learning.td_errors import TDErrors
from fastdqn.replay import NewestSampler
from fastdqn.seeding import EXPLORE, TRAIN, env_seed
from fastdqn.system.cpu_limits import usable_cores

# Windows whose priorities an actor computes in one pass.
_RATED_TOGETHER = 256
# Time without the head node after which Ray ends the learner. It notices before, and saves.
_RECONNECT_SECONDS = 600


class _Plan(NamedTuple):
    """What a process of an actor is built from.

    Attributes:
        config: The resolved options of the run.
        factory: Makes an environment, in place of env_id.
        facts: Of the environments.
        own: Objects from Python.
        actor: Number of the actor.
        incarnation: How often its process was replaced before.
        resumed: Steps of the run before it was resumed.
    """

    config: Any
    factory: Factory | None
    facts: EnvFacts
    own: UserParts
    actor: int
    incarnation: int
    resumed: int


def make_remote_stream(
    config: Any,
    factory: Factory | None,
    facts: EnvFacts,
    own: UserParts,
    resumed: int,
    owned: ExitStack,
) -> RemoteStream:
    """Connects to the cluster and returns the stream of its actors, which start() starts.

    Args:
        config: The resolved options.
        factory: Makes an environment, in place of env_id.
        facts: Of the environments.
        own: Objects from Python.
        resumed: Steps of the run before it was resumed.
        owned: Closes the actors and the connection.

    Raises:
        ConfigError: There is no such cluster, or it has not enough CPUs.
    """
    cpus = max(usable_cores(), config.actors)
    head = owned.enter_context(connected(config.ray_address, cpus, _RECONNECT_SECONDS))
    has = ray.cluster_resources().get("CPU", 0.0)
    if has < config.actors:
        raise ConfigError(
            [f"actors is {config.actors}, and the cluster has {has:g} CPUs, one for each actor: "
             "add machines, or use fewer actors"]
        )  # fmt: skip
    each = config.num_envs // config.actors
    remote = ray.remote(Actor).options(num_cpus=1, max_restarts=0, max_task_retries=0)

    def start(actor: int, incarnation: int) -> Any:
        plan = _Plan(config, factory, facts, own, actor, incarnation, resumed)
        make: Callable[[], Parts] = functools.partial(make_parts, plan)
        try:
            return remote.remote(make, actor, incarnation, actor * each, config.actor_block_steps)
        except (TypeError, pickle.PicklingError) as error:
            raise ConfigError(
                [f"what was passed from Python cannot travel to actors: {one_line(error)}. Name a "
                 "module and its object, such as my_module:MyEnv, instead"]
            ) from None  # fmt: skip

    def seed(actor: int, incarnation: int) -> int:
        return env_seed(config.seed, TRAIN, resumed + incarnation) + actor * each

    patience = config.max_step_seconds
    pool = ActorPool(
        start, seed, config.actors, config.actor_blocks, config.actor_restarts, head,
        None if patience is None else patience * config.actor_block_steps,
    )  # fmt: skip
    stream = RemoteStream(
        pool, facts, config.num_envs, config.actors, config.actor_weights_frequency
    )
    owned.callback(stream.close)
    return stream


def actor_config(config: Any, actor: int, incarnation: int, resumed: int = 0) -> Any:
    """Returns the options of one actor, whose random numbers are its own.

    Args:
        config: The resolved options of the run.
        actor, incarnation, resumed: As in _Plan.
    """
    return config.replace(
        num_envs=config.num_envs // config.actors, actors=0, actor_num_envs=None,
        seed=derive(config.seed, EXPLORE, 1 + actor + (incarnation << 20), resumed) >> 1,
        device="cpu", capture="eager", precision="float32", threads=1, eval_frequency=0,
        final_evaluation=False, stop_at_return=None, updates_per_launch=1, priority_lag=0,
        store="auto" if config.store == "device" else config.store,
    )  # fmt: skip


def make_parts(plan: _Plan) -> Parts:
    """Makes the parts of an actor, in its process."""
    config = actor_config(plan.config, plan.actor, plan.incarnation, plan.resumed)
    facts, own = plan.facts, plan.own
    torch.set_num_threads(1)
    owned = ExitStack()
    stream = make_streams(config, plan.factory, None, config.seed, owned, facts).training
    with float32_by_default():
        online = agent.make_online(config, facts, own)[0]
        value = agent.make_value(config, online.weights.device, own)
        policy = agent.make_policy(config, online, value, facts)
        rates = _ActorPriorities(config, facts, own, online) if config.actor_priorities else None
    return Parts(stream, policy, online, rates, owned)


class _ActorPriorities:
    """Initial priorities: the n-step TD errors of windows, with the actor's own weights.

    Source: Horgan et al. 2018 (arXiv 1803.00933), algorithm 1, with one network for both roles.
    """

    def __init__(
        self, config: ResolvedConfig, facts: EnvFacts, own: UserParts, online: FlatParameters
    ):
        # The rows of one block: a step may add its outcome and a whole stack of a new episode.
        rows = config.actor_block_steps * (1 + facts.stack) + config.n_steps
        own_config: Any = config.replace(
            learner="torch", batch_size=_RATED_TOGETHER, sampler="newest", prioritized=False,
            buffer_size=config.num_envs * rows,
        )  # fmt: skip
        self._replay = agent.make_replay(own_config, facts, own)
        assert isinstance(self._replay.sampler, NewestSampler)
        self._line = line = self._replay.sampler
        # A first draw would skip the older windows of a block.
        begun = line.state() | {"next": self._replay.ring.added, "begun": True}
        line.load_state(begun, self._replay.ring, config.n_steps)
        learner = agent.make_learner(own_config, online, devices.make_capture(own_config), own)
        self._td_errors = TDErrors(learner)
        self._batch = self._replay.new_batch(_RATED_TOGETHER)

    def append(self, step: Step) -> int:
        self._replay.append(step)
        return self._line.waiting

    def rate(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index, priority = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        while waiting := min(self._line.waiting, _RATED_TOGETHER):
            batch = self._replay.new_batch(waiting)
            self._replay.sample(batch)
            for whole, part in zip(self._batch, batch, strict=True):
                if part is not None:
                    whole[:waiting] = part
            index.append(batch.index)
            priority.append(self._td_errors(self._batch)[:waiting].numpy().copy())
        row, lane = np.divmod(np.concatenate(index), self._replay.ring.num_lanes)
        return lane, row, np.concatenate(priority)
