"""Replay buffer benchmark: rows added and batches sampled per second, and memcpy speed."""

import itertools
import math
import time

import numpy as np

from fastdqn.bench.policy_speed import lanes_of_a_call
from fastdqn.bench.repeats import Clock, Effort, repeat
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import deliveries, fill_replay
from fastdqn.builders import agent
from fastdqn.config.registry import WORDS
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.replay import CheckedSampler, Replay

# Maximum appends before the measurement: more rows than caches hold, in at most a second.
_MOST_APPENDS = 50_000
# Bytes of a copy that exceeds all caches.
_COPY_BYTES = 1 << 27
# Further batch sizes for stacked frames: that of DQN, and one for a GPU.
_STACKED_BATCHES = (32, 256)


def measure_replay(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures adds/s and samples/s of a replay buffer, per call and per row, and bytes/s.

    The sampler of the run is measured first, then uniform and prioritized. With stacked frames, the
    buffer is full, and further batch sizes and a memcpy of the same size are measured.

    Args:
        config: Resolved options.
        facts: Spaces of the environment.
        effort: Duration of each measurement.
        clock: Returns seconds.
    """
    figures, sizes = [], [config.batch_size]
    if facts.stack > 1:
        sizes = list(dict.fromkeys((*sizes, *_STACKED_BATCHES)))
    # The newest sampler draws each row once, so batches could not be sampled repeatedly.
    own = "uniform" if config.sampler == "newest" else config.sampler
    for sampler in dict.fromkeys((own, "uniform", "prioritized")):
        sampled = config.replace(
            replay=True, sampler=sampler, total_timesteps=config.total_timesteps or 1
        )
        replay = agent.make_replay(sampled, facts)
        most = replay.ring.rows if facts.stack > 1 else _MOST_APPENDS
        fill_replay(replay, facts, min(replay.ring.rows, most))
        figures += measure_adding(replay, lanes_of_a_call(config), facts, effort, clock)
        for size in sizes:
            figures += measure_sampling(replay, size, effort, clock)
    if facts.stack > 1:
        figures += [measure_copy_of_batch(facts, size, effort, clock) for size in sizes]
    return [*figures, measure_copy(effort, clock)]


def measure_adding(
    replay: Replay, of_a_call: int, facts: EnvFacts, effort: Effort, clock: Clock
) -> list[Figure]:
    """Measures adds/s and rows/s of a filled replay buffer, with of_a_call rows per call."""
    lanes = replay.ring.num_lanes
    steps = itertools.cycle(deliveries(lanes, of_a_call, facts))
    rate = repeat(lambda: replay.append(next(steps)), effort, clock)
    of = {"num_envs": lanes, "rows": len(replay), "sampler": _sampler(replay)}
    if of_a_call < lanes:
        of["env_batch_size"] = of_a_call
    return [
        Figure("replay", "replay_adds_per_second", rate, of),
        Figure("replay", "replay_added_rows_per_second", rate.scaled(of_a_call), of),
    ]


def measure_sampling(
    replay: Replay, batch_size: int, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures batches/s, rows/s and bytes/s of observations from a filled replay buffer."""
    batch = replay.new_batch(batch_size)
    rate = repeat(lambda: replay.sample(batch), effort, clock)
    of = {
        "batch_size": batch_size, "rows": len(replay), "n_steps": replay.n_steps,
        "sampler": _sampler(replay),
    }  # fmt: skip
    moved = batch.obs.nbytes + batch.next_obs.nbytes
    figures = [
        Figure("replay", "replay_samples_per_second", rate, of),
        Figure("replay", "replay_sampled_rows_per_second", rate.scaled(batch_size), of),
        Figure("replay", "replay_sampled_bytes_per_second", rate.scaled(moved), of),
    ]
    if replay.wants_priorities:
        index, priority = batch.index.copy(), np.random.default_rng(0).random(batch_size)
        update = repeat(lambda: replay.update_priorities(index, priority), effort, clock)
        figures.append(Figure("replay", "replay_priority_updates_per_second", update, of))
    return figures


def _sampler(replay: Replay) -> str:
    """Returns the word of the replay's sampler, or the name of its class."""
    sampler = replay.sampler
    name = type(sampler.sampler if isinstance(sampler, CheckedSampler) else sampler).__name__
    words = WORDS["sampler"].items()
    return next((word for word, path in words if path.endswith(f":{name}")), name)


def measure_copy_of_batch(
    facts: EnvFacts, batch_size: int, effort: Effort, clock: Clock = time.perf_counter
) -> Figure:
    """Measures bytes/s of a memcpy of the size of a batch, from uncached memory, on one thread."""
    nbytes = 2 * batch_size * math.prod(facts.obs_shape) * facts.obs_dtype.itemsize
    source, out = np.ones(max(nbytes, _COPY_BYTES), np.uint8), np.empty(nbytes, np.uint8)
    pieces = itertools.cycle(
        source[at : at + nbytes] for at in range(0, len(source) - nbytes + 1, nbytes)
    )
    rate = repeat(lambda: np.copyto(out, next(pieces)), effort, clock)
    of = {"batch_size": batch_size}
    return Figure("replay", "memcpy_bytes_per_second", rate.scaled(nbytes), of)


def measure_copy(effort: Effort, clock: Clock = time.perf_counter) -> Figure:
    """Measures bytes/s of a memcpy of a large array on one thread, an upper bound."""
    source = np.ones(_COPY_BYTES, np.uint8)
    out = np.empty_like(source)
    rate = repeat(lambda: np.copyto(out, source), effort, clock)
    return Figure("replay", "memcpy_bytes_per_second", rate.scaled(_COPY_BYTES), {})
