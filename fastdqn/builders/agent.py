"""Builds the agent: replay, network, learner and policy, from options and environment facts."""

import copy
import math
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastdqn.builders import devices, torso_kinds
from fastdqn.builders.parts import NO_PARTS, PART_OPTIONS, UserParts, make_part, part_options
from fastdqn.checkpoints.network_weights import (
    WeightsError,
    assign_weights,
    load_weights,
    run_folder_of,
)
from fastdqn.checkpoints.table_weights import is_table
from fastdqn.config import atari_protocols
from fastdqn.config.conflicts import (
    chosen_backup,
    chosen_sampler,
    has_plain_update,
    is_compiled,
    is_graph,
)
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.option import options_of
from fastdqn.config.registry import CUSTOM, WORDS
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvFacts, ObsStatistics, ReturnStatistics, lies_inside
from fastdqn.exploration import Repeats
from fastdqn.files.run_folder import read_config
from fastdqn.kernels.rng import derive
from fastdqn.learning.bootstrap_targets import Backup
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.cnn_torsos import MinAtarCNN, PictureCNN
from fastdqn.learning.device_store import DeviceStore
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.learner import Learner
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
from fastdqn.part_error import PartError
from fastdqn.ranks.one_rank import ONE_RANK, Ranks
from fastdqn.replay import (
    CheckedSampler,
    FrameStore,
    Replay,
    Ring,
    RowStore,
    Sampler,
    rows_per_lane,
)
from fastdqn.replay.batch import ObsStore
from fastdqn.schedules import Linear
from fastdqn.seeding import DRAWS, EXPLORE, NOISE, SAMPLE, WEIGHTS
from fastdqn.tabular.files import load_table_policy
from fastdqn.tabular.q_table import TablePolicy
from fastdqn.training.loop import Follower
from fastdqn.training.normalization import Normalizer
from fastdqn.training.value_range import RangeWatch


def make_replay(
    config: Config, facts: EnvFacts, own: UserParts = NO_PARTS, ranks: Ranks = ONE_RANK
) -> Replay:
    """Returns an empty replay buffer. The options must be resolved."""
    n = config.num_envs
    stack = facts.stack if keeps_frames(config, facts.stack) else 1
    rows = rows_per_lane(config.buffer_size, n, config.n_steps, stack)
    return Replay(
        Ring(n, rows, stack),
        make_store(config, facts, rows, stack),
        make_sampler(config, n * rows, own, ranks),
        masks=RowStore(n, rows, (facts.num_actions,), np.bool_) if facts.has_masks else None,
        n_steps=config.n_steps,
        gamma=config.gamma,
        reward_bound=atari_protocols.reward_bound(config.atari_protocol, config.env_kwargs),
    )


def make_store(config: Config, facts: EnvFacts, rows: int, stack: int) -> ObsStore:
    """Returns the store of observations for rows of each environment."""
    args = config.num_envs, rows, facts.obs_shape, facts.obs_dtype
    if config.store == "device":
        return DeviceStore(*args, stack, torch.device(config.device))
    return RowStore(*args) if stack == 1 else FrameStore(*args)


def make_learner(
    config: Config,
    online: FlatParameters,
    capture: Capture | None = None,
    own: UserParts = NO_PARTS,
    store: Any = None,
    ranks: Ranks = ONE_RANK,
) -> Learner:
    """Returns the learner of a network. The options must be resolved.

    A DeviceStore gathers the observations of its batches.
    """
    device = online.weights.device
    value, backup = make_value(config, device, own), make_backup(config, own)
    return Learner(
        online,
        value,
        backup,
        Draws(
            config.batch_size,
            noise_size(online.module),
            value.fractions_of_passes(backup),
            device,
            derive(config.seed, DRAWS),
            config.updates_per_launch or 1,
        ),
        make_part("optimizer", config, own, weights=online.weights, gradient=online.gradient),
        make_target_update(config),
        config.max_grad_norm,
        capture or devices.make_capture(config),
        make_step(config),
        store.observed if isinstance(store, DeviceStore) else None,
        ranks.average,
    )


def make_step(config: Config) -> Callable[[Learner], Any] | None:
    """Returns what makes the step of the fused learner; None for autograd."""
    if config.learner == "torch":
        return None
    if has_plain_update(config) and config.ranks == 1:
        return FusedStep
    from fastdqn.learning.fused_family import FusedFamilyStep  # its kernels take time to load

    return FusedFamilyStep


def _fused_policy(config: Config, online: FlatParameters, value: Value) -> Any:
    """Returns the greedy actions of the fused learner's kernels."""
    if has_plain_update(config):
        return FusedPolicy(online)
    from fastdqn.learning.fused_family import make_fused_policy

    return make_fused_policy(online, value)


def make_value(options: Any, device: torch.device, own: UserParts = NO_PARTS) -> Value:
    """Returns the value of a Config, or of the description of a network, on a device."""
    value = make_part("value", options, own)
    moved = value.to(device)
    if moved is None:
        raise ConfigError([f"{type(value).__name__}.to() returns None: it must return the value"])
    return moved


def make_target_update(config: Config) -> TargetUpdate:
    """Returns the target network update: hard, Polyak, or no target network."""
    if not config.target_network:
        return NoTarget()
    # Both frequencies are in steps, and the target network counts updates.
    every = config.target_network_frequency / config.train_frequency
    return HardCopy(every) if config.tau == 1.0 else PolyakAverage(every, config.tau)


def make_backup(config: Config, own: UserParts = NO_PARTS) -> Backup:
    """Returns the bootstrap target."""
    return make_part("backup", config, own, name=chosen_backup(config))


def make_sampler(
    config: Config, num_slots: int, own: UserParts = NO_PARTS, ranks: Ranks = ONE_RANK
) -> Sampler:
    """Returns the sampler of replay rows. One that is not of the package is checked in each draw.

    Raises:
        ConfigError: It cannot be made, or its state cannot be saved.
    """
    name = chosen_sampler(config)
    rises = Linear(config.importance_exponent, 1.0, config.total_timesteps or 0)
    sampler = make_part(
        "sampler", config, own, name=name,
        num_slots=num_slots, seed=derive(config.seed, SAMPLE), importance_exponent=rises,
        largest_of_ranks=ranks.largest,
    )  # fmt: skip
    if name in WORDS["sampler"]:
        return sampler
    checked = CheckedSampler(
        sampler, f"sampler {type(sampler).__name__ if name == CUSTOM else name}"
    )
    try:
        checked.state()  # now, and not at the first checkpoint
    except PartError as error:
        raise ConfigError([str(error)]) from None
    return checked


def make_online(
    config: Config, facts: EnvFacts, own: UserParts = NO_PARTS
) -> tuple[FlatParameters, dict]:
    """Returns the online network on its device, with flat parameters, and its description.

    Raises:
        ValueError: The torso does not fit.
    """
    description = describe_network(config, facts, own)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, WEIGHTS))
        network = make_network(description, own, config.dueling_gradient_scale)
    devices.place(config, network)
    try:
        return FlatParameters(network, torch.device(config.device)), description
    except ValueError as error:  # a parameter or buffer of a torso that is not float32
        raise ConfigError([str(error)]) from None


def make_policy(
    config: Config,
    online: FlatParameters,
    value: Value,
    facts: EnvFacts,
    capture: Capture | None = None,
    store: Any = None,
) -> Policy:
    """Returns the policy, which shares the weights of the online network.

    A DeviceStore has the observations that act() is given the slots of.
    """
    stored = store.observations if isinstance(store, DeviceStore) else None
    device, size = online.weights.device, noise_size(online.module)
    network, choose = online.eval_alias(), None
    if config.learner == "fused":
        choose = _fused_policy(config, online, value)
    elif is_graph(config.capture) or is_compiled(config.capture):
        capture = capture or devices.make_capture(config)
        choose = CapturedPolicy(network, value, device, capture, observations=stored)
    return Policy(
        network, value, device, facts.obs_shape, facts.num_actions,
        seed=derive(config.seed, EXPLORE),
        noise=LaneNoise(size, device, derive(config.seed, NOISE)) if size else NoNoise(),
        choose=choose, repeats=make_repeats(config, facts.num_actions), observations=stored,
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
    if (bounds := learner.value.bounds) is not None:
        followers["range"] = RangeWatch(
            config.num_envs, config.gamma, *bounds,
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


def describe_network(config: Config, facts: EnvFacts, own: UserParts = NO_PARTS) -> dict:
    """Returns the description from which a network can be rebuilt, stored with its weights.

    It holds every option that is marked as stored, and those that value and torso take as
    arguments, except for parts such as the loss, which a policy does not need. Torso and
    hidden_sizes must be resolved.
    """
    known = options_of(Config)
    names = [name for name, option in known.items() if option.stored]
    taken = part_options("value", config.value, own)
    if ":" in config.torso:
        taken += part_options("torso", config.torso, own)
    names += [name for name in taken if known[name].part is None]
    return {
        "obs_shape": list(facts.obs_shape),
        "obs_dtype": str(facts.obs_dtype),
        "obs_scale": facts.obs_scale,
        "num_actions": facts.num_actions,
        **{name: _plain(getattr(config, name)) for name in names},
        "torso": config.torso if own.torso is None else CUSTOM,
        "part_kwargs": {
            key: value
            for key, value in config.part_kwargs.items()
            if key.partition(".")[0] in ("value", "torso")
        },
    }


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if isinstance(value, Fraction):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def make_network(
    description: dict, own: UserParts = NO_PARTS, gradient_scale: float = 1.0
) -> QNetwork:
    """Returns the network of a description.

    Args:
        description: As describe_network() returns it.
        own: Objects from Python.
        gradient_scale: Of a dueling head, which affects only training.

    Raises:
        ValueError: A part is missing, or the torso cannot take the observations.
    """
    shape, sizes = tuple(description["obs_shape"]), tuple(description["hidden_sizes"])
    options, dueling = types.SimpleNamespace(**description), DuelingHead
    if description["torso"] == "mlp":
        # Only layers after the first are noisy.
        shared = sizes[:1] if options.noisy else sizes
        torso = MLP(math.prod(shape), shared, activation=options.hidden_activation)
        sizes = sizes[len(shared) :]
    elif description["torso"] in torso_kinds.CONVOLUTIONS:
        if line := torso_kinds.problem(description["torso"], shape):
            raise ValueError(line)
        torso, dueling = torso_kinds.CONVOLUTIONS[description["torso"]].make(shape), StreamsHead
    else:
        torso, sizes = make_own_torso(description, own), ()
    with torch.device("cpu"):  # operations on the meta device may import the compiler
        value = make_part("value", description, own)
    if isinstance(torso, MLP | PictureCNN | MinAtarCNN):
        features = torso.num_features
    else:
        features = count_features(torso, shape)
    outputs = Outputs(options.num_actions, value.outputs_per_action)
    layers = NoisyLayers(options.noisy_sigma) if options.noisy else Affine
    activation = options.hidden_activation
    if options.dueling:
        head = dueling(features, outputs, layers, sizes, gradient_scale, activation=activation)
    else:
        head = PlainHead(features, outputs, layers, sizes, activation=activation)
    of_obs, of_returns = options.normalize_observation, options.normalize_reward
    return QNetwork(
        torso,
        value.wrap_head(features, head),
        description["obs_scale"],
        Statistics(shape, of_obs, of_returns) if of_obs or of_returns else None,
    )


def make_own_torso(options: Any, own: UserParts) -> nn.Module:
    """Returns a torso of the user's: a copy of an object, or one made from module:Name.

    Raises:
        ValueError: It is missing, or cannot be made.
    """
    if own.torso is not None:
        # A copy, since its parameters become views of the flat tensor.
        return copy.deepcopy(own.torso)
    if options["torso"] == CUSTOM:
        raise ValueError(
            "these weights belong to a custom torso: use fastdqn.load_policy(run, torso=...)"
        )
    return make_part("torso", options, own, obs_shape=tuple(options["obs_shape"]))


def _require_known_modules(path: Path, description: dict) -> None:
    """Raises WeightsError if a weights file names a module that its run does not name.

    Importing a module runs its code, so a weights file alone must not choose one.
    """
    for name in PART_OPTIONS:
        part = str(description.get(name, ""))
        if ":" not in part:
            continue
        try:
            known = getattr(read_config(run_folder_of(path)), name)
        except ConfigError:
            known = None
        if part != known:
            raise WeightsError(
                f"{path} needs the {name} {part}, and only the config.json of its run may name a "
                f"module to import: give the run folder, or fastdqn.load_policy(file, {name}=...)"
            )
        if lies_inside(part.partition(":")[0], str(run_folder_of(path))):
            raise WeightsError(f"{path}: {name} {part} lies inside the run folder: move it")


@float32_by_default()
def load_policy(
    path: Path, own: UserParts = NO_PARTS
) -> tuple[Policy | TablePolicy, dict[str, Any]]:
    """Loads a greedy CPU policy. Returns it with the description of its network or table.

    Args:
        path: Weights file.
        own: Objects from Python that the weights need.

    Raises:
        WeightsError: The file cannot be used.
        ValueError: A part is missing or does not fit.
    """
    if is_table(path):
        return load_table_policy(path)
    arrays, description = load_weights(path)
    description |= dict.fromkeys(own.objects, CUSTOM)
    if own.torso is not None:
        description["torso"] = CUSTOM
    _require_known_modules(path, description)
    if own.torso is None and description["torso"] != CUSTOM:
        # A damaged file may describe a huge network, so the sizes are checked before allocation.
        try:
            with torch.device("meta"):
                imagined = make_network(description, own)
        except (RuntimeError, TypeError):  # sizes beyond the limits of torch
            raise WeightsError(f"{path} describes a network larger than any memory") from None
        except ValueError as error:  # observations that the convolutions cannot take
            raise WeightsError(f"{path}: {error}") from None
        assign_weights(path, imagined, arrays)
    network = make_network(description, own).eval().requires_grad_(False)
    assign_weights(path, network, arrays)
    value = make_value(description, torch.device("cpu"), own)
    shape = tuple(description["obs_shape"])
    policy = Policy(network, value, torch.device("cpu"), shape, description["num_actions"])
    return policy, description
