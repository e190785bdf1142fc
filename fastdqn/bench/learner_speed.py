"""The learner alone: updates and samples per second over batch sizes, with no environment."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from fastdqn.bench.repeats import Clock, Effort, Rate, repeat
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import fill_batch
from fastdqn.builders import agent
from fastdqn.builders.devices import make_staging
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.learning.batch_staging import Staging
from fastdqn.replay import new_batch

BATCH_SIZES = (32, 128, 512, 2048)
# Launches between two device events.
_BETWEEN_EVENTS = 50


def measure_learner(
    config: Config,
    facts: EnvFacts,
    batch_sizes: Iterable[int],
    effort: Effort,
    clock: Clock = time.perf_counter,
    torso: nn.Module | None = None,
) -> Iterator[Figure]:
    """Updates/s and samples/s with config's network and learner, one batch size after another.

    config  resolved. Its batch_size comes first. On a GPU, by events in the device's stream too.
    torso   of one's own, in place of config's
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
    """A learner and random batches: (a launch of it, which says how many updates it made, its
    device, seconds until it was prepared)."""
    began = clock()
    online, _ = agent.make_online(config, facts, torso)
    learner = agent.make_learner(config, online)
    batches = staged(config, facts, online.weights.device).all_devices[0]
    learner.prepare(*batches)

    def update() -> int:
        learner.update(*batches)
        return len(batches)

    return update, online.weights.device, clock() - began


def staged(config: Config, facts: EnvFacts, device: torch.device) -> Staging:
    """Random batches of config's size, on the device: as many as are learned from at once."""
    masked = facts.num_actions if facts.has_masks else None
    batch = new_batch(config.batch_size, facts.obs_shape, facts.obs_dtype, masked)
    staging, _ = make_staging(config, batch, device)
    for host in staging.hosts(staging.together):
        fill_batch(host, facts)
    staging.upload(staging.together)
    return staging


def measure_upload(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> Figure | None:
    """Bytes/s of a batch on its way to the device; None on the CPU, where nothing is copied."""
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
    """A call that waits until the device has nothing left to do."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def by_device_events(update: Callable[[], int], device: torch.device, effort: Effort) -> Rate:
    """Updates per second between two events in the device's stream, as the device's own clock has
    it: gaps in which it waited for launches count, waiting for the host at the end does not."""
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
