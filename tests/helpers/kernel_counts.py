"""Counts the operators of an update on a device, and estimates the kernels that they launch."""

from collections import Counter

import numpy as np
import torch

from fastdqn import Config
from fastdqn.bench.learner_speed import staged
from fastdqn.builders import agent
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.parts import NO_PARTS
from fastdqn.envs import EnvFacts
from fastdqn.learning.graph_capture import eager
from helpers.simulated_cuda import simulated_cuda

# Observations of Atari games and of CartPole.
ATARI = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0)
CARTPOLE = EnvFacts((4,), np.dtype(np.float32), 1.0, 2, 0)
# Kernels of operators that launch another number than one. Convolutions add the bias in a kernel of
# their own, and their gradients are one kernel each for inputs, weights and bias, with a change of
# layout. A norm and a dot product take two steps. A batched product copies its bias first. Memory
# alone takes none.
_KERNELS = {
    "aten.empty_like.default": 0,
    "aten.convolution.default": 2, "aten.convolution_backward.default": 4,
    "aten.linalg_vector_norm.default": 2, "aten.dot.default": 2, "aten.baddbmm.default": 2,
}  # fmt: skip


def count_update(facts: EnvFacts, **options) -> Counter[str]:
    """Returns the operators of one update, by name."""
    with simulated_cuda() as machine:
        options = {"store": "rows"} | options
        config = Config(device="cuda", capture="eager", learner="torch").replace(**options)
        config = resolve(config, facts, "sync", NO_PARTS).config.replace(updates_per_launch=1)
        learner = agent.make_learner(config, agent.make_online(config, facts)[0], eager)
        batch = staged(config, facts, torch.device("cuda")).device
        learner.update(batch)
        machine.operators.clear()
        learner.update(batch)
    return machine.operators


def kernels(operators: Counter[str]) -> int:
    return sum(_KERNELS.get(name, 1) * count for name, count in operators.items())
