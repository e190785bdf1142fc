"""Memory estimate of a run, computed before anything is allocated."""

from fastdqn.builders.network_size import NetworkSize, obs_size
from fastdqn.builders.parts import NO_PARTS, UserParts, find_part
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.schema import Config, ResolvedConfig
from fastdqn.envs import EnvFacts
from fastdqn.replay import Ring, rows_per_lane
from fastdqn.system.available_memory import available_bytes


def memory_problems(
    config: ResolvedConfig, facts: EnvFacts, size: NetworkSize, own: UserParts = NO_PARTS
) -> list[str]:
    """Returns an error message if a run does not fit into host memory."""
    room = available_bytes()
    if room is None:
        return []
    network = _host_network_bytes(config, size)
    if network > room:
        return [
            f"a network of hidden_sizes {config.hidden_sizes} for {facts.num_actions} actions, its "
            f"optimizer and a batch of {config.batch_size} need {network / 2**30:,.1f} GiB and "
            f"{room / 2**30:.1f} GiB are available"
        ]
    needed = host_bytes(config, facts, size, own)
    if needed <= room:
        return []
    row = _row_bytes(config, facts, own) + _saved_bytes(config, facts, own)
    batch = network + _staged_bytes(config, facts)
    around = rows_per_lane(0, config.num_envs, config.n_steps, _stack(config, facts))
    fits = ((room - batch) // (row * config.num_envs) - around) * config.num_envs
    return [
        f"buffer_size is {config.buffer_size}: the run needs {needed / 2**30:,.1f} GiB and "
        f"{room / 2**30:.1f} GiB are available. The largest --buffer-size that fits is about "
        f"{max(0, fits)}"
    ]


def host_bytes(
    config: ResolvedConfig, facts: EnvFacts, size: NetworkSize, own: UserParts = NO_PARTS
) -> int:
    """Returns the bytes of host memory that a run allocates."""
    replay = replay_bytes(config, facts, own) + checkpoint_bytes(config, facts, own)
    return _host_network_bytes(config, size) + replay


def _host_network_bytes(config: Config, size: NetworkSize) -> int:
    """Returns bytes of host memory of the learner.

    Of one on a device the host has the weights before they are moved, and copies for a checkpoint.
    """
    if config.device == "cpu":
        return network_bytes(config, size)
    return 4 * (4 + config.target_network) * size.weights + size.fixed_bytes


def device_problems(
    config: ResolvedConfig, facts: EnvFacts, size: NetworkSize, room: int
) -> list[str]:
    """Returns an error message if a run does not fit into room bytes of device memory."""
    needed = device_bytes(config, facts, size)
    if needed <= room:
        return []
    if config.store == "device" and device_store_bytes(config, facts) > room:
        return [
            f"store is device: the observations of {config.buffer_size:,} rows need "
            f"{device_store_bytes(config, facts) / 2**30:,.1f} GiB of {config.device}'s memory and "
            f"{room / 2**30:,.1f} GiB are available. Use --store auto or a smaller --buffer-size"
        ]
    message = (
        f"batch_size is {config.batch_size}: network, optimizer and batches need "
        f"{needed / 2**30:,.2f} GiB of {config.device}'s memory and {room / 2**30:,.2f} GiB are "
        "available. "
    )
    # All terms are proportional to the batch, but for those of an empty one.
    empty = device_bytes(config, facts, size, batch_size=0)
    fits = (room - empty) * config.batch_size // (needed - empty)
    if fits < 1:
        return [message + "Not even a batch of 1 fits: use smaller --hidden-sizes or --device cpu"]
    return [message + f"The largest --batch-size that fits is about {fits}"]


def device_bytes(
    config: ResolvedConfig, facts: EnvFacts, size: NetworkSize, batch_size: int | None = None
) -> int:
    """Returns bytes of device memory of a run: the learner and staged batches."""
    # A captured update keeps its scratch memory. A Polyak target is copied while it is prepared.
    kept = 4 * size.weights * (config.target_network and config.tau < 1.0)
    network = network_bytes(config, size, batch_size)
    staged = _staged_bytes(config, facts, batch_size)
    return network + kept + staged + (config.store == "device") * device_store_bytes(config, facts)


def device_store_bytes(config: Config, facts: EnvFacts) -> int:
    """Returns bytes of device memory of the replay's observations, if they are stored there."""
    stack = facts.stack if keeps_frames(config, facts.stack) else 1
    each = _obs_bytes(facts) // stack + 8 * stack * (stack > 1)
    return _rows(config, facts) * each


def _staged_bytes(config: ResolvedConfig, facts: EnvFacts, batch_size: int | None = None) -> int:
    """Returns bytes of the staged batches between replay and learner, on either side."""
    # Action and index take 8 bytes each, reward, discount and weight 4 each.
    obs = 8 if config.store == "device" else _obs_bytes(facts)  # a slot, or the observation
    sample = 2 * obs + 28 + 2 * facts.num_actions * facts.has_masks
    slots = 2 if config.device.startswith("cuda") else 1 + config.priority_lag
    size = config.batch_size if batch_size is None else batch_size
    return slots * config.updates_per_launch * size * sample


def replay_bytes(config: ResolvedConfig, facts: EnvFacts, own: UserParts = NO_PARTS) -> int:
    """Returns bytes of host memory of the replay: rows and staged batches."""
    batch = _staged_bytes(config, facts)
    return _rows(config, facts) * _row_bytes(config, facts, own) + batch


def checkpoint_bytes(config: ResolvedConfig, facts: EnvFacts, own: UserParts = NO_PARTS) -> int:
    """Returns the maximum bytes of host memory while a checkpoint is written: a copy of the rows
    since the last one."""
    return _rows(config, facts) * _saved_bytes(config, facts, own)


def network_bytes(config: Config, size: NetworkSize, batch_size: int | None = None) -> int:
    """Returns bytes of the learner.

    Counts weights, gradient, target, both moments of Adam, a copy of all but the target during
    warm-up, constants twice, and stored activations with their gradients and those of the target.
    """
    # A forward pass stores the noise of noisy layers, and their weights with it.
    copies = 8 + config.target_network + 2 * config.noisy
    samples = config.batch_size if batch_size is None else batch_size
    return 4 * copies * size.weights + 2 * size.fixed_bytes + 3 * samples * size.sample_bytes


def _obs_bytes(facts: EnvFacts) -> int:
    return facts.obs_dtype.itemsize * obs_size(facts)


def _saved_bytes(config: ResolvedConfig, facts: EnvFacts, own: UserParts) -> int:
    """Returns bytes of a row while a checkpoint is written: the row and its index."""
    if not config.checkpoint_replay:
        return 0
    obs = _obs_bytes(facts) // _stack(config, facts) if config.store == "device" else 0
    return _row_bytes(config, facts, own) + obs + 8


def _stack(config: Config, facts: EnvFacts) -> int:
    """Returns the number of rows that an observation spans."""
    return facts.stack if keeps_frames(config, facts.stack) else 1


def _rows(config: Config, facts: EnvFacts) -> int:
    each = rows_per_lane(config.buffer_size, config.num_envs, config.n_steps, _stack(config, facts))
    return each * config.num_envs


def _row_bytes(config: ResolvedConfig, facts: EnvFacts, own: UserParts) -> int:
    mask = facts.num_actions if facts.has_masks else 0
    sampler = getattr(find_part("sampler", config.sampler, own), "BYTES_PER_ROW", 0)
    obs = 0 if config.store == "device" else _obs_bytes(facts) // _stack(config, facts)
    return obs + Ring.BYTES_PER_ROW + mask + sampler
