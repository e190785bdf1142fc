"""Memory estimate of a run, computed before anything is allocated."""

import itertools
import math
from typing import Any

from fastdqn.builders.torso_kinds import CONVOLUTIONS, needs, settle
from fastdqn.builders.value_kinds import embedding_weights, numbers_a_sample, outputs_per_action
from fastdqn.config.conflicts import sized
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.replay import NewestSampler, PrioritizedSampler, Ring, rows_per_lane
from fastdqn.system.available_memory import available_bytes


def memory_problems(config: Config, facts: EnvFacts) -> list[str]:
    """Returns an error message if a run does not fit into host memory."""
    room, config = available_bytes(), sized(settle(config, facts), _stack(config, facts))
    if room is None:
        return []
    network = network_bytes(config, facts)
    if network > room:
        return [
            f"a network of hidden_sizes {config.hidden_sizes} for {facts.num_actions} actions, its "
            f"optimizer and a batch of {config.batch_size} need {network / 2**30:,.1f} GiB and "
            f"{room / 2**30:.1f} GiB are available"
        ]
    needed = network + replay_bytes(config, facts) + checkpoint_bytes(config, facts)
    if needed <= room:
        return []
    row = _row_bytes(config, facts) + _saved_bytes(config, facts)
    batch = network + _staged_bytes(config, facts)
    around = rows_per_lane(0, config.num_envs, config.n_steps, _stack(config, facts))
    fits = ((room - batch) // (row * config.num_envs) - around) * config.num_envs
    return [
        f"buffer_size is {config.buffer_size}: the run needs {needed / 2**30:,.1f} GiB and "
        f"{room / 2**30:.1f} GiB are available. The largest --buffer-size that fits is about "
        f"{max(0, fits)}"
    ]


def device_problems(config: Config, facts: EnvFacts, room: int) -> list[str]:
    """Returns an error message if a run does not fit into room bytes of device memory."""
    config = sized(settle(config, facts), _stack(config, facts))
    needed = device_bytes(config, facts)
    if needed <= room:
        return []
    message = (
        f"batch_size is {config.batch_size}: network, optimizer and batches need "
        f"{needed / 2**30:,.2f} GiB of {config.device}'s memory and {room / 2**30:,.2f} GiB are "
        "available. "
    )
    if device_bytes(config.replace(batch_size=1), facts) > room:
        return [message + "Not even a batch of 1 fits: use smaller --hidden-sizes or --device cpu"]
    fits, beyond = 1, config.batch_size
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if device_bytes(config.replace(batch_size=middle), facts) <= room:
            fits = middle
        else:
            beyond = middle
    return [message + f"The largest --batch-size that fits is about {fits}"]


def device_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of device memory of a run: the learner and staged batches."""
    # A captured update keeps its scratch memory. A Polyak target is copied while it is prepared.
    kept = 4 * network_weights(config, facts) * (config.target_network and config.tau < 1.0)
    return network_bytes(config, facts) + kept + _staged_bytes(config, facts)


def _staged_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of the staged batches between replay and learner, on either side."""
    # Action and index take 8 bytes each, reward, discount and weight 4 each.
    sample = 2 * _obs_bytes(facts) + 28 + 2 * facts.num_actions * facts.has_masks
    slots = 2 if config.device.startswith("cuda") else 1 + (config.priority_lag or 0)
    return slots * (config.updates_per_launch or 1) * config.batch_size * sample


def keeps_frames(config: Config, stack: int) -> bool:
    """Returns whether replay rows store only the newest of stacked frames."""
    return config.store == "frames" or (config.store == "auto" and stack > 1)


def replay_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of host memory of the replay: rows and staged batches."""
    batch = _staged_bytes(config, facts)
    return _rows(config, facts) * _row_bytes(config, facts) + batch


def checkpoint_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns the maximum bytes of host memory while a checkpoint is written: a copy of the rows
    since the last one."""
    return _rows(config, facts) * _saved_bytes(config, facts)


def network_weights(config: Config, facts: EnvFacts) -> int:
    """Returns the number of weights of torso and head, without making them."""
    settled = settle(config, facts)
    if settled.torso in CONVOLUTIONS:
        return _convolution_weights(settled, facts)
    outputs = (facts.num_actions + config.dueling) * (outputs_per_action(config) or 1)
    sizes = (math.prod(facts.obs_shape), *settled.hidden_sizes, outputs)
    layers = [(fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
    deviations = sum(layers[1:] or layers) if config.noisy else 0
    # Noisy layers after the first belong to the head, and the embedding precedes the head.
    embedded = sizes[min(1, len(sizes) - 2)] if config.noisy else sizes[-2]
    return sum(layers) + deviations + embedding_weights(config, embedded)


def _convolution_weights(config: Any, facts: EnvFacts) -> int:
    """As network_weights(), with hidden layers in each stream of the head."""
    torso = needs(config.torso, facts.obs_shape)
    streams = (1, facts.num_actions) if config.dueling else (facts.num_actions,)
    total = torso.weights + embedding_weights(config, torso.features)
    for of_actions in streams:
        outputs = of_actions * (outputs_per_action(config) or 1)
        sizes = (torso.features, *config.hidden_sizes, outputs)
        layers = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
        total += layers * (2 if config.noisy else 1)
    return total


def _kept_by_mlp(config: Any, facts: EnvFacts) -> int:
    """Returns about how many numbers an update stores per sample. hidden_sizes must be set."""
    units = sum(config.hidden_sizes) + math.prod(facts.obs_shape) + 4 * facts.num_actions
    inner = (math.prod(facts.obs_shape), *config.hidden_sizes)
    # Fractions multiply everything after the torso, which noisy layers are part of.
    features = sum(inner) if config.noisy else inner[-1]
    return units + numbers_a_sample(config, facts.num_actions, features)


def _kept_by_convolutions(config: Any, facts: EnvFacts) -> int:
    """As _kept_by_mlp()."""
    torso = needs(config.torso, facts.obs_shape)
    behind = (1 + config.dueling) * sum(config.hidden_sizes)
    fractions = numbers_a_sample(config, facts.num_actions, torso.features + behind)
    return torso.numbers + torso.features + behind + 4 * facts.num_actions + fractions


def network_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of the learner.

    Counts weights, gradient, target, both moments of Adam, a copy of all but the target during
    warm-up, the constant matrix of a dueling head twice, and activations with their gradients.
    """
    settled = settle(config, facts)
    combine = 2 * facts.num_actions * (facts.num_actions + 1) if config.dueling else 0
    kept = _kept_by_convolutions if settled.torso in CONVOLUTIONS else _kept_by_mlp
    units = kept(settled, facts)
    # A forward pass stores the noise of noisy layers, and their weights with it.
    copies = 8 + config.target_network + 2 * config.noisy
    return 4 * (copies * network_weights(config, facts) + combine + 3 * config.batch_size * units)


def _obs_bytes(facts: EnvFacts) -> int:
    return facts.obs_dtype.itemsize * math.prod(facts.obs_shape)


def _saved_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of a row while a checkpoint is written: the row and its index."""
    return _row_bytes(config, facts) + 8 if config.checkpoint_replay else 0


def _stack(config: Config, facts: EnvFacts) -> int:
    """Returns the number of rows that an observation spans."""
    return facts.stack if keeps_frames(config, facts.stack) else 1


def _rows(config: Config, facts: EnvFacts) -> int:
    each = rows_per_lane(config.buffer_size, config.num_envs, config.n_steps, _stack(config, facts))
    return each * config.num_envs


def _row_bytes(config: Config, facts: EnvFacts) -> int:
    mask = facts.num_actions if facts.has_masks else 0
    sampler = PrioritizedSampler.BYTES_PER_ROW if config.prioritized else 0
    sampler += 0 if config.replay else NewestSampler.BYTES_PER_ROW
    return _obs_bytes(facts) // _stack(config, facts) + Ring.BYTES_PER_ROW + mask + sampler
