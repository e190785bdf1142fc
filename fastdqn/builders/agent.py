"""Builds the agent: replay, network, learner and policy, from options and environment facts."""

import copy
import math
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastdqn.builders import devices, torso_kinds, value_kinds
from fastdqn.checkpoints.network_weights import WeightsError, assign_weights, load_weights
from fastdqn.checkpoints.table_weights import is_table
from fastdqn.config import atari_protocols
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts, ObsStatistics, ReturnStatistics
from fastdqn.exploration import Repeats
from fastdqn.kernels.rng import derive
from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.bootstrap_targets import Backup, DoubleBackup, MaxBackup
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import (
    MLP,
    Affine,
    DuelingHead,
    Outputs,
    PlainHead,
    QNetwork,
    Statistics,
    StreamsHead,
    count_features,
)
from fastdqn.learning.noisy import NoisyLayers, noise_size
from fastdqn.learning.policy import Policy
from fastdqn.learning.precision import float32_by_default
from fastdqn.learning.random_inputs import Draws, LaneNoise, NoNoise
from fastdqn.learning.target_network import HardCopy, NoTarget, PolyakAverage, TargetUpdate
from fastdqn.learning.value import Value
from fastdqn.replay import (
    FrameStore,
    NewestSampler,
    PrioritizedSampler,
    Replay,
    Ring,
    RowStore,
    Sampler,
    UniformSampler,
    rows_per_lane,
)
from fastdqn.schedules import Linear
from fastdqn.seeding import DRAWS, EXPLORE, NOISE, SAMPLE, WEIGHTS
from fastdqn.tabular.files import load_table_policy
from fastdqn.tabular.q_table import TablePolicy
from fastdqn.training.loop import Follower
from fastdqn.training.normalization import Normalizer
from fastdqn.training.value_range import RangeWatch


def make_replay(config: Config, facts: EnvFacts) -> Replay:
    """Returns an empty replay buffer. The options must be resolved."""
    n = config.num_envs
    make_store, stack = {"rows": (RowStore, 1), "frames": (FrameStore, facts.stack)}[config.store]
    rows = rows_per_lane(config.buffer_size, n, config.n_steps, stack)
    return Replay(
        Ring(n, rows, stack),
        make_store(n, rows, facts.obs_shape, facts.obs_dtype),
        make_sampler(config, n * rows),
        masks=RowStore(n, rows, (facts.num_actions,), np.bool_) if facts.has_masks else None,
        n_steps=config.n_steps,
        gamma=config.gamma,
        reward_bound=atari_protocols.reward_bound(config.atari_protocol, config.env_kwargs),
    )


def make_learner(config: Config, online: FlatParameters, capture: Capture | None = None) -> Learner:
    """Returns the learner of a network. The options must be resolved."""
    optimizer = PlainAdam if config.capture == "compile" else FusedAdam
    backup = make_backup(config)
    return Learner(
        online,
        value_kinds.make_value(config, online.weights.device),
        backup,
        Draws(
            config.batch_size,
            noise_size(online.module),
            value_kinds.fractions_of_passes(config, backup),
            online.weights.device,
            derive(config.seed, DRAWS),
            config.updates_per_launch or 1,
        ),
        optimizer(online.weights, online.gradient, config.learning_rate, config.adam_epsilon),
        make_target_update(config),
        config.max_grad_norm,
        capture or devices.make_capture(config),
        {"fused": partial(FusedStep, threads=config.threads or 1), "torch": None}[config.learner],
    )


def make_target_update(config: Config) -> TargetUpdate:
    """Returns the target network update: hard, Polyak, or no target network."""
    if not config.target_network:
        return NoTarget()
    # Both frequencies are in steps, and the target network counts updates.
    every = config.target_network_frequency / config.train_frequency
    return HardCopy(every) if config.tau == 1.0 else PolyakAverage(every, config.tau)


def make_backup(config: Config) -> Backup:
    """Returns the bootstrap target: Munchausen, Double or maximum."""
    if config.munchausen:
        return MunchausenBackup(
            config.munchausen_alpha, config.munchausen_temperature, config.munchausen_floor
        )
    # Without a target network, selection and evaluation use the same network.
    return DoubleBackup() if config.double and config.target_network else MaxBackup()


def make_sampler(config: Config, num_slots: int) -> Sampler:
    """Returns the sampler of replay rows."""
    if not config.replay:
        return NewestSampler(num_slots)
    seed = derive(config.seed, SAMPLE)
    if not config.prioritized:
        return UniformSampler(seed)
    assert config.total_timesteps is not None
    rises = Linear(config.importance_exponent, 1.0, config.total_timesteps)
    return PrioritizedSampler(num_slots, config.priority_exponent, rises, seed)


def make_online(
    config: Config, facts: EnvFacts, torso: nn.Module | None = None
) -> tuple[FlatParameters, dict]:
    """Returns the online network on its device, with flat parameters, and its description.

    Raises:
        ValueError: The torso does not fit.
    """
    description = describe_network(config, facts, torso)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, WEIGHTS))
        network = make_network(description, torso, config.dueling_gradient_scale)
    devices.place(config, network)
    return FlatParameters(network, torch.device(config.device)), description


def make_policy(
    config: Config,
    online: FlatParameters,
    value: Value,
    facts: EnvFacts,
    capture: Capture | None = None,
) -> Policy:
    """Returns the policy, which shares the weights of the online network."""
    device, size = online.weights.device, noise_size(online.module)
    network, choose = online.eval_alias(), None
    if config.learner == "fused":
        choose = FusedPolicy(online)
    elif config.capture in ("compile", "graph"):
        choose = CapturedPolicy(network, value, device, capture or devices.make_capture(config))
    return Policy(
        network, value, device, facts.obs_shape, facts.num_actions,
        seed=derive(config.seed, EXPLORE),
        noise=LaneNoise(size, device, derive(config.seed, NOISE)) if size else NoNoise(),
        choose=choose, repeats=make_repeats(config, facts.num_actions),
    )  # fmt: skip


def make_repeats(config: Config, num_actions: int) -> Repeats | None:
    if config.exploration_zeta is None:
        return None
    return Repeats(config.exploration_zeta, config.num_envs, num_actions)


def make_followers(
    config: Config,
    policy: Policy,
    learner: Learner,
    replay: Replay,
    facts: EnvFacts,
    warn: Callable[[str], None],
) -> dict[str, Follower]:
    """Returns the objects that process every step, by name: repeats, normalizer, range check."""
    followers: dict[str, Follower] = {}
    if policy.repeats is not None:
        followers["repeats"] = policy.repeats
    if config.normalize_observation or config.normalize_reward:
        followers["normalizer"] = _make_normalizer(config, learner, replay, facts)
    if config.value == "categorical":
        followers["range"] = RangeWatch(
            config.num_envs, config.gamma, config.v_min, config.v_max,
            lambda: replay.reward_scale, warn, replay.reward_bound,
        )  # fmt: skip
    return followers


def _make_normalizer(
    config: Config, learner: Learner, replay: Replay, facts: EnvFacts
) -> Normalizer:
    """Returns the normalizer, which passes statistics to the networks and the replay."""
    networks = (learner.online.module, learner.target.module)
    returns = ReturnStatistics(config.num_envs, config.gamma, replay.reward_bound)
    return Normalizer(
        [part for network in networks for part in network.modules() if type(part) is Statistics],
        replay,
        ObsStatistics(facts.obs_shape) if config.normalize_observation else None,
        returns if config.normalize_reward else None,
    )


def describe_network(config: Config, facts: EnvFacts, torso: nn.Module | None = None) -> dict:
    """Returns the description from which a network can be rebuilt, stored with its weights."""
    settled = torso_kinds.settle(config, facts)
    return {
        "obs_shape": list(facts.obs_shape),
        "obs_dtype": str(facts.obs_dtype),
        "obs_scale": facts.obs_scale,
        "num_actions": facts.num_actions,
        "hidden_sizes": list(settled.hidden_sizes),
        "dueling": config.dueling,
        "noisy": config.noisy,
        "noisy_sigma": config.noisy_sigma,
        **{name: getattr(config, name) for name in value_kinds.OPTIONS},
        "torso": settled.torso if torso is None else "custom",
        "normalize_observation": config.normalize_observation,
        "normalize_reward": config.normalize_reward,
    }


def make_network(
    description: dict, torso: nn.Module | None = None, gradient_scale: float = 1.0
) -> QNetwork:
    """Returns the network of a description.

    Args:
        description: As describe_network() returns it.
        torso: A custom torso, or None.
        gradient_scale: Of a dueling head, which affects only training.

    Raises:
        ValueError: The torso is missing, or cannot take the observations.
    """
    shape, sizes = tuple(description["obs_shape"]), tuple(description["hidden_sizes"])
    dueling = DuelingHead
    if torso is not None:
        sizes = ()
        torso = copy.deepcopy(torso)  # since its parameters become views of the flat tensor
    elif description["torso"] == "mlp":
        # Only layers after the first are noisy.
        shared = sizes[:1] if description["noisy"] else sizes
        torso, sizes = MLP(math.prod(shape), shared), sizes[len(shared) :]
    elif description["torso"] in torso_kinds.CONVOLUTIONS:
        if line := torso_kinds.problem(description["torso"], shape):
            raise ValueError(line)
        torso, dueling = torso_kinds.CONVOLUTIONS[description["torso"]].make(shape), StreamsHead
    else:
        raise ValueError(
            "these weights belong to a custom torso: use fastdqn.load_policy(run, torso=...)"
        )
    features, options = count_features(torso, shape), types.SimpleNamespace(**description)
    outputs = Outputs(options.num_actions, value_kinds.outputs_per_action(options))
    layers = NoisyLayers(options.noisy_sigma) if options.noisy else Affine
    if options.dueling:
        head = dueling(features, outputs, layers, sizes, gradient_scale)
    else:
        head = PlainHead(features, outputs, layers, sizes)
    of_obs, of_returns = description["normalize_observation"], description["normalize_reward"]
    return QNetwork(
        torso,
        value_kinds.wrap_head(options, features, head),
        description["obs_scale"],
        Statistics(shape, of_obs, of_returns) if of_obs or of_returns else None,
    )


@float32_by_default()
def load_policy(
    path: Path, torso: nn.Module | None = None
) -> tuple[Policy | TablePolicy, dict[str, Any]]:
    """Loads a greedy CPU policy. Returns it with the description of its network or table.

    Raises:
        WeightsError: The file cannot be used.
        ValueError: The torso does not fit.
    """
    if is_table(path):
        return load_table_policy(path)
    arrays, description = load_weights(path)
    if torso is None and description["torso"] != "custom":
        # A damaged file may describe a huge network, so the sizes are checked before allocation.
        try:
            with torch.device("meta"):
                imagined = make_network(description)
        except (RuntimeError, TypeError):  # sizes beyond the limits of torch
            raise WeightsError(f"{path} describes a network larger than any memory") from None
        except ValueError as error:  # observations that the convolutions cannot take
            raise WeightsError(f"{path}: {error}") from None
        assign_weights(path, imagined, arrays)
    network = make_network(description, torso).eval().requires_grad_(False)
    assign_weights(path, network, arrays)
    value = value_kinds.make_value(types.SimpleNamespace(**description), torch.device("cpu"))
    shape = tuple(description["obs_shape"])
    policy = Policy(network, value, torch.device("cpu"), shape, description["num_actions"])
    return policy, description
