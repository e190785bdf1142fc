"""The replay alone: rows added and batches sampled per second, beside a plain copy of memory."""

import itertools
import time

import numpy as np

from fastdqn import parts
from fastdqn.acting import EnvFacts
from fastdqn.config import Config
from fastdqn.measure.acting import lanes_of_a_call
from fastdqn.measure.figures import Figure
from fastdqn.measure.repeat import Clock, Effort, repeat
from fastdqn.measure.synthetic import deliveries, fill_replay
from fastdqn.replay import Replay

# Appends before anything is measured: enough to leave every cache, and a second at the most.
_MOST_APPENDS = 50_000
# Bytes of a copy that no cache holds.
_COPY_BYTES = 1 << 27


def measure_replay(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Adds/s and samples/s of a replay of config's size, per call and per row, and bytes/s.

    config  resolved
    """
    replay = parts.make_replay(config, facts)
    fill_replay(replay, facts, min(replay.ring.rows, _MOST_APPENDS))
    return [
        *measure_adding(replay, lanes_of_a_call(config), facts, effort, clock),
        *measure_sampling(replay, config.batch_size, effort, clock),
        measure_copy(effort, clock),
    ]


def measure_adding(
    replay: Replay, of_a_call: int, facts: EnvFacts, effort: Effort, clock: Clock
) -> list[Figure]:
    """Adds/s and rows/s of one filled replay, to which so many lanes bring a row at a time."""
    lanes = replay.ring.num_lanes
    steps = itertools.cycle(deliveries(lanes, of_a_call, facts))
    rate = repeat(lambda: replay.append(next(steps)), effort, clock)
    of = {"num_envs": lanes, "rows": len(replay)}
    if of_a_call < lanes:
        of["env_batch_size"] = of_a_call
    return [
        Figure("replay", "replay_adds_per_second", rate, of),
        Figure("replay", "replay_added_rows_per_second", rate.scaled(of_a_call), of),
    ]


def measure_sampling(
    replay: Replay, batch_size: int, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Batches/s, rows/s and bytes/s (observations read and written) of one filled replay."""
    batch = replay.new_batch(batch_size)
    rate = repeat(lambda: replay.sample(batch), effort, clock)
    of = {"batch_size": batch_size, "rows": len(replay), "n_steps": replay.n_steps}
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


def measure_copy(effort: Effort, clock: Clock = time.perf_counter) -> Figure:
    """Bytes/s of one thread copying a large array: what the machine allows a store."""
    source = np.ones(_COPY_BYTES, np.uint8)
    out = np.empty_like(source)
    rate = repeat(lambda: np.copyto(out, source), effort, clock)
    return Figure("replay", "memcpy_bytes_per_second", rate.scaled(_COPY_BYTES), {})
