"""Acting benchmark: policy calls and actions per second."""

import time

import numpy as np

from fastdqn.bench.repeats import Clock, Effort, repeat
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import random_mask, random_obs
from fastdqn.builders import agent
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.policy import Policy


def measure_acting(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures calls/s and actions/s of epsilon-greedy acting, for resolved options."""
    online, _ = agent.make_online(config, facts)
    policy = agent.make_policy(config, online, agent.make_learner(config, online).value, facts)
    of = {"num_envs": config.num_envs}
    if (lanes := lanes_of_a_call(config)) < config.num_envs:
        of["env_batch_size"] = lanes
    return measure_policy(policy, lanes, facts, effort, clock, of)


def lanes_of_a_call(config: Config) -> int:
    """Returns the number of environments that a policy call acts for."""
    return config.env_batch_size or config.num_envs


def measure_policy(
    policy: Policy,
    lanes: int,
    facts: EnvFacts,
    effort: Effort,
    clock: Clock,
    of: dict[str, int],
) -> list[Figure]:
    """Measures a policy. Actions are copied to the host, so each call is complete."""
    rng = np.random.default_rng(0)
    obs = random_obs(rng, lanes, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, lanes, facts.num_actions) if facts.has_masks else None

    def call() -> None:
        policy.act(obs, 0.05, mask)

    rate = repeat(call, effort, clock)
    return [
        Figure("act", "act_calls_per_second", rate, of),
        Figure("act", "act_actions_per_second", rate.scaled(lanes), of),
    ]
