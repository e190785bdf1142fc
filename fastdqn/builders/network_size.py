"""Network size: weights and stored activations of a network, counted before the run is built."""

import contextlib
import math
import types
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.builders import agent
from fastdqn.builders.parts import NO_PARTS, UserParts, make_part
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.autograd import AutogradSteps, Learned
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.precision import float32_by_default
from fastdqn.learning.random_inputs import blank_passes
from fastdqn.replay import Batch
from fastdqn.system.available_memory import available_bytes

_CPU = torch.device("cpu")
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

    Weights are counted on the meta device. If they fit into memory, two small batches show what a
    sample stores. That runs on the CPU, since a pass on the meta device imports the compiler.

    Args:
        config: Options with torso and hidden_sizes resolved.
        facts: Of the environment.
        own: Objects from Python.

    Raises:
        ConfigError: A part cannot be made.
        ValueError: The torso does not fit.
    """
    description = agent.describe_network(config, facts, own)
    with torch.random.fork_rng(devices=[]):
        return _measured(config, facts, own, description)


def _measured(
    config: Config, facts: EnvFacts, own: UserParts, description: dict[str, Any]
) -> NetworkSize:
    scale, room = config.dueling_gradient_scale, available_bytes()
    is_ours = own.torso is None and ":" not in description["torso"]
    with torch.device("meta") if is_ours else contextlib.nullcontext():
        network = agent.make_network(description, own, scale)
    weights = sum(parameter.numel() for parameter in network.parameters())
    constants = sum(buffer.nbytes for buffer in network.buffers())
    outputs = facts.num_actions * (make_part("value", description, own).outputs_per_action or 1)
    guess = NetworkSize(weights, constants, _GUESS * (obs_size(facts) + outputs))
    if room is not None and 4 * 4 * weights + 2 * guess.sample_bytes > room:
        return guess
    if is_ours:
        network = agent.make_network(description, own, scale)
    try:
        two, three = (_stored(network, config, facts, own, size) for size in (2, 3))
    except Exception:  # a part of the user's own fails: the warm-up reports it
        return guess
    each = three - two
    return NetworkSize(weights, constants + max(0, two - 2 * each), each)


def obs_size(facts: EnvFacts) -> int:
    """Returns the numbers of one observation."""
    return math.prod(facts.obs_shape)


def _stored(network: nn.Module, config: Config, facts: EnvFacts, own: UserParts, size: int) -> int:
    """Returns the bytes that the loss of a batch stores for the backward pass."""
    value, backup = agent.make_value(config, _CPU, own), agent.make_backup(config, own)
    learner: Any = types.SimpleNamespace(
        online=types.SimpleNamespace(module=network),
        target=types.SimpleNamespace(module=network),
        value=value, backup=backup, loss_sum=torch.zeros(()),
        optimizer=types.SimpleNamespace(compiles=False),
    )  # fmt: skip
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no two share a number
        return tensor

    passes = blank_passes(size, noise_size(network), value.fractions_of_passes(backup), _CPU)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        AutogradSteps(cast(Learned, learner), eager).loss(_batch(facts, size), passes)
    owned = {each.untyped_storage().data_ptr() for each in network.parameters()}
    return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in owned)


def _batch(facts: EnvFacts, size: int) -> Batch:
    dtype = torch.from_numpy(np.empty(0, facts.obs_dtype)).dtype
    obs = torch.zeros(size, *facts.obs_shape, dtype=dtype)
    row, index = torch.zeros(size), torch.zeros(size, dtype=torch.int64)
    mask = torch.ones(size, facts.num_actions, dtype=torch.bool) if facts.has_masks else None
    return cast(Batch, Batch(obs, index, row, row, obs, row, index, mask, mask))
