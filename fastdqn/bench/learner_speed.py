"""Learner benchmark: updates and samples per second over batch sizes."""

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import nn

from fastdqn.bench.repeats import Clock, Effort, Rate, repeat
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import fill_batch
from fastdqn.builders import agent
from fastdqn.builders.devices import make_staging
from fastdqn.builders.parts import UserParts
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.device_store import DeviceStore
from fastdqn.replay import new_batch, rows_per_lane

BATCH_SIZES = (32, 128, 512, 2048)
# Launches between two CUDA events.
_BETWEEN_EVENTS = 50


def measure_learner(
    config: Config,
    facts: EnvFacts,
    batch_sizes: Iterable[int],
    effort: Effort,
    clock: Clock = time.perf_counter,
    torso: nn.Module | None = None,
) -> Iterator[Figure]:
    """Measures updates/s and samples/s of the learner at each batch size.

    On a GPU, updates are timed by CUDA events, too.

    Args:
        config: Resolved options. Their batch_size is measured first.
        facts: Spaces of the environment.
        batch_sizes: Further batch sizes.
        effort: Duration of each measurement.
        clock: Returns seconds.
        torso: Custom torso. None: that of config.
    """
    for size in dict.fromkeys((config.batch_size, *batch_sizes)):
        update, device, prepared = learner_on(config.replace(batch_size=size), facts, clock, torso)
        of = {
            "batch_size": size, "learner": config.learner, "capture": config.capture,
            "device": config.device,
        }  # fmt: skip
        if device.type == "cuda":
            of |= {"precision": config.precision, "updates_per_launch": config.updates_per_launch}
        if config.capture != "eager":
            of["prepare_seconds"] = round(prepared, 3)
        rate = repeat(update, effort, clock, waiter(device))
        yield Figure("learner", "learner_updates_per_second", rate, of)
        yield Figure("learner", "learner_samples_per_second", rate.scaled(size), of)
        if device.type == "cuda":
            rate = by_device_events(update, device, effort)
            yield Figure("learner", "learner_device_updates_per_second", rate, of)


def learner_on(
    config: Config,
    facts: EnvFacts,
    clock: Clock = time.perf_counter,
    torso: nn.Module | None = None,
) -> tuple[Callable[[], int], torch.device, float]:
    """Creates a learner with random batches.

    Returns:
        A function that makes a launch and returns its number of updates, the device, and the
        seconds of preparation.
    """
    began = clock()
    online, _ = agent.make_online(config, facts, UserParts(torso))
    store = device_store(config, facts)
    learner = agent.make_learner(config, online, store=store)
    batches = staged(config, facts, online.weights.device, store).all_devices[0]
    learner.prepare(*batches)

    def update() -> int:
        learner.update(*batches)
        return len(batches)

    return update, online.weights.device, clock() - began


def device_store(config: Config, facts: EnvFacts) -> DeviceStore | None:
    """Returns a store of random observations on the device; None for a store of the host."""
    if config.store != "device":
        return None
    stack = facts.stack if keeps_frames(config, facts.stack) else 1
    rows = rows_per_lane(config.buffer_size, config.num_envs, config.n_steps, stack)
    store = agent.make_store(config, facts, rows, stack)
    assert isinstance(store, DeviceStore)
    if store.frames.is_floating_point():
        store.frames.normal_()
    else:
        store.frames.random_(0, 2 if store.frames.dtype == torch.bool else 256)
    return store


def staged(
    config: Config, facts: EnvFacts, device: torch.device, store: DeviceStore | None = None
) -> Staging:
    """Returns random batches on the device, as many as one launch uses."""
    masked = facts.num_actions if facts.has_masks else None
    shape, dtype = facts.obs_shape, facts.obs_dtype
    if store is not None:
        shape, dtype = store.sample_shape, store.sample_dtype
    staging, _ = make_staging(config, new_batch(config.batch_size, shape, dtype, masked), device)
    for seed, host in enumerate(staging.hosts(staging.together)):
        fill_batch(host, facts._replace(obs_shape=shape, obs_dtype=dtype))
        if store is not None:
            slots = np.random.default_rng(seed).integers(store.num_slots, size=(2, len(host.obs)))
            host.obs[:], host.next_obs[:] = slots
    staging.upload(staging.together)
    return staging


def measure_upload(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> Figure | None:
    """Measures bytes/s of copying a batch to the device. None on the CPU."""
    device = torch.device(config.device)
    if device.type == "cpu":
        return None
    staging = staged(config, facts, device)
    moved = sum(tensor.nbytes for tensor in staging.device if tensor is not None)

    def upload() -> None:
        staging.upload()

    rate = repeat(upload, effort, clock, waiter(device)).scaled(moved)
    return Figure("upload", "upload_bytes_per_second", rate, {"batch_size": config.batch_size})


def waiter(device: torch.device) -> Callable[[], None]:
    """Returns a function that synchronizes with the device."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def by_device_events(update: Callable[[], int], device: torch.device, effort: Effort) -> Rate:
    """Measures updates/s between two CUDA events, by the clock of the device.

    Gaps in which the device waits for launches count. The final synchronization does not.
    """
    rates = []
    stream = torch.cuda.current_stream(device)
    for _ in range(effort.repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
        made = sum(update() for _ in range(_BETWEEN_EVENTS))
        last.record(stream)
        last.synchronize()
        rates.append(1e3 * made / first.elapsed_time(last))
    return Rate.over(rates, _BETWEEN_EVENTS * effort.repeats)
