"""Parts: replay, network, learner and policy, each from options and facts alone."""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastdqn.acting import EnvFacts, ObsStatistics, ReturnStatistics
from fastdqn.config import Config
from fastdqn.engine.normalize import Normalizer
from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.backup import DoubleBackup, MaxBackup
from fastdqn.learning.capture import compiled, eager
from fastdqn.learning.flat import FlatParameters
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import (
    MLP,
    DuelingHead,
    PlainHead,
    QNetwork,
    Statistics,
    count_features,
)
from fastdqn.learning.policy import Policy
from fastdqn.learning.target import HardCopy, PolyakAverage
from fastdqn.learning.value import ScalarValue, Value, huber, squared_error
from fastdqn.record.weights import assign_weights, load_weights
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler, rows_per_lane
from fastdqn.rng import derive
from fastdqn.seeds import EXPLORE, SAMPLE, WEIGHTS


def make_replay(config: Config, facts: EnvFacts) -> Replay:
    """An empty replay of config's size."""
    n = config.num_envs
    rows = rows_per_lane(config.buffer_size, n, config.n_steps)
    return Replay(
        Ring(n, rows),
        RowStore(n, rows, facts.obs_shape, facts.obs_dtype),
        UniformSampler(derive(config.seed, SAMPLE)),
        masks=RowStore(n, rows, (facts.num_actions,), np.bool_) if facts.has_masks else None,
        n_steps=config.n_steps,
        gamma=config.gamma,
    )


def make_learner(config: Config, online: FlatParameters) -> Learner:
    """The learner over a flattened network."""
    # Both frequencies count steps; the target counts updates, so only their ratio reaches it.
    every = config.target_network_frequency / config.train_frequency
    optimizer, capture = {
        "eager": (FusedAdam, eager),
        "compile": (PlainAdam, compiled),
    }[config.capture]
    return Learner(
        online,
        ScalarValue(huber if config.loss == "huber" else squared_error),
        DoubleBackup() if config.double else MaxBackup(),
        optimizer(online.weights, online.gradient, config.learning_rate),
        HardCopy(every) if config.tau == 1.0 else PolyakAverage(every, config.tau),
        config.max_grad_norm,
        capture,
    )


def make_online(
    config: Config, facts: EnvFacts, torso: nn.Module | None = None
) -> tuple[FlatParameters, dict]:
    """The online network on its device, flattened, and its description.

    Raises ValueError where the torso does not fit.
    """
    description = describe_network(config, facts, torso)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, WEIGHTS))
        network = make_network(description, torso)
    return FlatParameters(network, torch.device(config.device)), description


def make_policy(config: Config, online: FlatParameters, value: Value, facts: EnvFacts) -> Policy:
    """What acts with the online network's weights."""
    return Policy(
        online.eval_alias(), value, online.weights.device, facts.obs_shape, facts.num_actions,
        seed=derive(config.seed, EXPLORE),
    )  # fmt: skip


def make_normalizer(
    config: Config, learner: Learner, replay: Replay, facts: EnvFacts
) -> Normalizer | None:
    """What hands statistics on to network and replay, where config asks for any."""
    if not (config.normalize_observation or config.normalize_reward):
        return None
    networks = (learner.online.module, learner.target.module)
    return Normalizer(
        [part for network in networks for part in network.modules() if type(part) is Statistics],
        replay,
        ObsStatistics(facts.obs_shape) if config.normalize_observation else None,
        ReturnStatistics(config.num_envs, config.gamma) if config.normalize_reward else None,
    )


def describe_network(config: Config, facts: EnvFacts, torso: nn.Module | None = None) -> dict:
    """All that makes a network again, as plain values: it travels with the weights."""
    return {
        "obs_shape": list(facts.obs_shape),
        "obs_dtype": str(facts.obs_dtype),
        "obs_scale": facts.obs_scale,
        "num_actions": facts.num_actions,
        "hidden_sizes": list(config.hidden_sizes),
        "dueling": config.dueling,
        "torso": "mlp" if torso is None else "custom",
        "normalize_observation": config.normalize_observation,
        "normalize_reward": config.normalize_reward,
    }


def make_network(description: dict, torso: nn.Module | None = None) -> QNetwork:
    """Build the network of a description. Raises ValueError where its torso is missing."""
    shape = tuple(description["obs_shape"])
    if torso is None:
        if description["torso"] != "mlp":
            raise ValueError(
                "these weights belong to a torso of your own: fastdqn.load_policy(run, torso=...)"
            )
        torso = MLP(math.prod(shape), tuple(description["hidden_sizes"]))
    else:
        torso = copy.deepcopy(torso)  # its parameters become views of the flat tensor
    head = DuelingHead if description["dueling"] else PlainHead
    of_obs, of_returns = description["normalize_observation"], description["normalize_reward"]
    return QNetwork(
        torso,
        head(count_features(torso, shape), description["num_actions"]),
        description["obs_scale"],
        Statistics(shape, of_obs, of_returns) if of_obs or of_returns else None,
    )


def load_policy(path: Path, torso: nn.Module | None = None) -> tuple[Policy, dict]:
    """A greedy CPU policy from a weights file, and the description of its network.

    Raises WeightsError, one line, where the file cannot be used; ValueError where the torso does
    not fit.
    """
    arrays, description = load_weights(path)
    if torso is None and description["torso"] == "mlp":
        # A few bytes may describe a network of any size: what the file holds must match first.
        with torch.device("meta"):
            assign_weights(path, make_network(description), arrays)
    network = make_network(description, torso).eval().requires_grad_(False)
    assign_weights(path, network, arrays)
    value = ScalarValue(squared_error)
    shape = tuple(description["obs_shape"])
    policy = Policy(network, value, torch.device("cpu"), shape, description["num_actions"])
    return policy, description
