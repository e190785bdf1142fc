"""Memory estimate: exact number of weights, and never too little memory."""

import itertools

import numpy as np
import pytest
import torch

from fastdqn import Config
from fastdqn.builders import agent
from fastdqn.builders.memory_estimate import network_bytes
from fastdqn.builders.network_size import measure_network
from fastdqn.envs import EnvFacts
from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.graph_capture import eager
from fastdqn.replay.batch import new_batch
from helpers.cost import slow_but_one_of
from helpers.setups import resolved

FACTS = EnvFacts((3, 2), np.dtype(np.float32), 1.0, 4, 0)
KINDS = list(
    itertools.product(
        ["scalar", "categorical", "quantile", "implicit-quantile", "hl-gauss"],
        [False, True], [False, True], [(), (12,), (12, 40), (16, 1024, 8)],
    )
)  # fmt: skip


@pytest.mark.parametrize(("value", "dueling", "noisy", "sizes"), slow_but_one_of(KINDS, 9))
def test_weights_are_counted_right_and_memory_is_not_underestimated(value, dueling, noisy, sizes):
    config = Config(
        value=value, dueling=dueling, noisy=noisy, hidden_sizes=sizes, device="cpu",
        learner="torch", batch_size=64, num_quantiles=24, num_fractions=64,
    )  # fmt: skip
    config = resolved(config, FACTS, weights=1)
    size = measure_network(config, FACTS)
    online, _ = agent.make_online(config, FACTS)
    real = sum(parameter.numel() for parameter in online.module.parameters())
    assert size.weights == real
    learner = agent.make_learner(config, online)
    batch = Staging(new_batch(64, (3, 2), np.float32), torch.device("cpu")).device
    held, seen = {}, []

    def keep(tensor):
        seen.append(tensor)  # alive, so that no two share an address
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = AutogradSteps(learner, eager).loss(batch, learner.draws.passes)
    assert len(graph) == 3
    assert network_bytes(config, size) >= 9 * 4 * real + sum(held.values())
