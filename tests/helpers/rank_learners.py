"""Learners of ranks, each of which has a part of a batch, and one that has the whole batch."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch

from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import DoubleBackup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_family import FusedFamilyStep
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import MLP, DuelingHead, Outputs, QNetwork
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import Draws
from fastdqn.learning.target_network import HardCopy
from fastdqn.learning.value import ScalarValue, squared_error
from fastdqn.replay import Batch, PrioritizedSampler, Replay, Ring, RowStore
from helpers.learners import CPU
from helpers.oracle_priorities import live

UPDATES, PART, BETA, ALPHA = 100, 16, 0.7, 0.6
VALUES: dict[str, Any] = {
    "scalar": lambda: ScalarValue(squared_error),
    "quantile": lambda: QuantileValue(5),
    "categorical": lambda: CategoricalValue(7, -3.0, 3.0),
}


def make(value: str, fused: bool, size: int, ranks: Any = None, seed: int = 0) -> Learner:
    """Returns a learner of Double and Dueling. Weights of another seed are to be broadcast."""
    torch.manual_seed(seed)
    meaning = VALUES[value]()
    head = DuelingHead(16, Outputs(2, meaning.outputs_per_action))
    online = FlatParameters(QNetwork(MLP(3, (16,)), head), CPU)
    if ranks is not None:
        ranks.broadcast(online.weights, online.buffers)
    return Learner(
        online, meaning, DoubleBackup(), Draws(size, 0, (0, 0, 0, 0), CPU, seed=0),
        FusedAdam(online.weights, online.gradient, 1e-3), HardCopy(Fraction(10)), 1.0,
        make_step=FusedFamilyStep if fused else None,
        average=None if ranks is None else ranks.average,
    )  # fmt: skip


def make_replay(ranks: Any) -> tuple[Replay, PrioritizedSampler]:
    """Returns a replay of random transitions, more of them on the second rank, by priority."""
    rng, rows = np.random.default_rng(ranks.index), 40 + 20 * ranks.index
    sampler = PrioritizedSampler(
        2 * rows, ALPHA, lambda steps: BETA, seed=ranks.index, largest_of_ranks=ranks.largest
    )
    store = RowStore(2, rows, (3,), np.float32)
    replay = Replay(Ring(2, rows), store, sampler, n_steps=1, gamma=0.9)
    live(replay, rng, 2 * rows)
    return replay, sampler


def learn_all(ranks: Any, cases: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    return [learn(ranks, *case) for case in cases]


def learn(ranks: Any, value: str, fused: bool) -> dict[str, Any]:
    """Makes updates on parts of batches. Returns the batches and the weights after them.

    Leaves are those of the drawn rows before the draw, and of all rows of this rank.
    """
    learner = make(value, fused, PART, ranks, seed=ranks.index)
    replay, sampler = make_replay(ranks)
    staging = Staging(replay.new_batch(PART), CPU)
    batches, leaves, sums = [], [], []
    for _ in range(UPDATES):
        before = sampler.tree.leaves.copy()
        replay.sample(staging.host)
        slots = replay.ring.num_lanes, replay.ring.rows
        row, lane = np.divmod(staging.host.index, slots[0])
        leaves.append(before[lane * slots[1] + row % slots[1]])
        sums.append((before.sum(), np.count_nonzero(before)))
        batches.append([np.array(each) for each in staging.host[:7]])
        priority = learner.update(*staging.upload(1))
        replay.update_priorities(staging.host.index, priority.numpy())
    return {
        "weights": learner.online.weights.numpy().copy(), "batches": batches, "leaves": leaves,
        "sums": sums, "checksum": learner.checksum(), "loss": learner.loss_total(),
    }  # fmt: skip


def learn_alone(value: str, fused: bool, batches: list[Batch]) -> tuple[np.ndarray, float]:
    """Returns the weights and the loss of one learner after whole batches."""
    learner = make(value, fused, 2 * PART)
    for batch in batches:
        learner.update(Staging(batch, CPU).device)
    return learner.online.weights.numpy().copy(), learner.loss_total()
