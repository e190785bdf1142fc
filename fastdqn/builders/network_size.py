"""Network size: weights and stored activations, counted on the meta device without allocation."""

import copy
import math
import types
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.builders import agent
from fastdqn.builders.parts import NO_PARTS, UserParts
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.autograd import AutogradSteps, Learned
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.networks import initialized
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.precision import float32_by_default
from fastdqn.learning.random_inputs import blank_passes
from fastdqn.replay import Batch

_META = torch.device("meta")
# Bytes per sample of an update that cannot be counted, for each number of an observation and of an
# output. Not tuned.
_GUESS = 64


class NetworkSize(NamedTuple):
    """Size of a network and of an update.

    Attributes:
        weights: Number of weights.
        fixed_bytes: Bytes that the forward pass stores for any batch, and constants.
        sample_bytes: Bytes that it stores for each sample.
    """

    weights: int
    fixed_bytes: int = 0
    sample_bytes: int = 0


@float32_by_default()
def measure_network(config: Config, facts: EnvFacts, own: UserParts = NO_PARTS) -> NetworkSize:
    """Returns the size of the network, and of the loss of one update.

    Args:
        config: Options with torso and hidden_sizes resolved.
        facts: Of the environment.
        own: Objects from Python.

    Raises:
        ConfigError: A part cannot be made.
        ValueError: The torso does not fit.
    """
    description = agent.describe_network(config, facts, own)
    if own.torso is not None:
        torso = initialized(own.torso, facts.obs_shape)
        own = own._replace(torso=None if torso is None else _on_meta(torso))
    with _META:
        network = agent.make_network(description, own, config.dueling_gradient_scale)
        weights = sum(parameter.numel() for parameter in network.parameters())
        constants = sum(buffer.nbytes for buffer in network.buffers())
        try:
            one, two = (_stored(network, config, facts, own, size) for size in (2, 3))
        except Exception:  # a part of the user's own that needs values
            outputs = facts.num_actions * (config.num_atoms + config.num_quantiles)
            return NetworkSize(weights, constants, _GUESS * (obs_size(facts) + outputs))
    each = two - one
    return NetworkSize(weights, constants + max(0, one - 2 * each), each)


def obs_size(facts: EnvFacts) -> int:
    """Returns the numbers of one observation."""
    return math.prod(facts.obs_shape)


def _on_meta(torso: nn.Module) -> nn.Module:
    """Returns a copy of a module without values."""
    return copy.deepcopy(torso).to(_META)


def _stored(network: nn.Module, config: Config, facts: EnvFacts, own: UserParts, size: int) -> int:
    """Returns the bytes that the loss of a batch stores for the backward pass."""
    value, backup = agent.make_value(config, _META, own), agent.make_backup(config, own)
    learner: Any = types.SimpleNamespace(
        online=types.SimpleNamespace(module=network),
        target=types.SimpleNamespace(module=network),
        value=value, backup=backup, loss_sum=torch.zeros(()),
        optimizer=types.SimpleNamespace(compiles=False),
    )  # fmt: skip
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # alive, so that no two share a number
        return tensor

    passes = blank_passes(size, noise_size(network), value.fractions_of_passes(backup), _META)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        AutogradSteps(cast(Learned, learner), eager).loss(_batch(facts, size), passes)
    owned = {each.untyped_storage()._cdata for each in network.parameters()}
    return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in owned)


def _batch(facts: EnvFacts, size: int) -> Batch:
    dtype = torch.from_numpy(np.empty(0, facts.obs_dtype)).dtype
    obs = torch.zeros(size, *facts.obs_shape, dtype=dtype)
    row, index = torch.zeros(size), torch.zeros(size, dtype=torch.int64)
    mask = torch.ones(size, facts.num_actions, dtype=torch.bool) if facts.has_masks else None
    return cast(Batch, Batch(obs, index, row, row, obs, row, index, mask, mask))
