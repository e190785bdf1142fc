"""Acting benchmark: policy calls and actions per second."""

import time

import numpy as np

from fastdqn.bench.learner_speed import device_store
from fastdqn.bench.repeats import Clock, Effort, repeat
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import random_mask, random_obs
from fastdqn.builders import agent
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.device_store import DeviceStore
from fastdqn.learning.policy import Policy


def measure_acting(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures calls/s and actions/s of epsilon-greedy acting, for resolved options."""
    online, _ = agent.make_online(config, facts)
    value, store = agent.make_learner(config, online).value, device_store(config, facts)
    policy = agent.make_policy(config, online, value, facts, store=store)
    of = {"num_envs": config.num_envs}
    if (lanes := lanes_of_a_call(config)) < config.num_envs:
        of["env_batch_size"] = lanes
    return measure_policy(policy, lanes, facts, effort, clock, of, slots_of(store, lanes))


def lanes_of_a_call(config: Config) -> int:
    """Returns the number of environments that a policy call acts for."""
    return config.env_batch_size or config.num_envs


def slots_of(store: DeviceStore | None, lanes: int) -> np.ndarray | None:
    """Returns random slots for the observations of a call, if a store on the device has them."""
    return None if store is None else np.random.default_rng(0).integers(store.num_slots, size=lanes)


def measure_policy(
    policy: Policy,
    lanes: int,
    facts: EnvFacts,
    effort: Effort,
    clock: Clock,
    of: dict[str, int],
    slots: np.ndarray | None = None,
) -> list[Figure]:
    """Measures a policy. Actions are copied to the host, so each call is complete.

    slots are those of a store on the device, see Policy.act().
    """
    rng = np.random.default_rng(0)
    obs = random_obs(rng, lanes, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, lanes, facts.num_actions) if facts.has_masks else None

    def call() -> None:
        policy.act(obs, 0.05, mask, slots=slots)

    rate = repeat(call, effort, clock)
    return [
        Figure("act", "act_calls_per_second", rate, of),
        Figure("act", "act_actions_per_second", rate.scaled(lanes), of),
    ]
