"""Small learners and batches of known numbers."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch

from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import DoubleBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import (
    MLP,
    DuelingHead,
    Outputs,
    QNetwork,
)
from fastdqn.learning.random_inputs import Draws
from fastdqn.learning.target_network import HardCopy
from fastdqn.learning.value import ScalarValue, squared_error
from fastdqn.replay import Batch

CPU = torch.device("cpu")


def make_learner(
    hidden=(16,), head: Any = DuelingHead, backup=None, optimizer: Any = FusedAdam,
    capture=eager, clip=None, learning_rate=1e-3, every=10, element_loss=squared_error,
    device=CPU, value: Any = None,
):  # fmt: skip
    torch.manual_seed(0)
    features = hidden[-1] if hidden else 3
    outputs = Outputs(2, None if value is None else value.outputs_per_action)
    online = FlatParameters(QNetwork(MLP(3, hidden), head(features, outputs)), device)
    adam = optimizer(online.weights, online.gradient, learning_rate)
    return Learner(
        online, value or ScalarValue(element_loss), backup or DoubleBackup(),
        Draws(32, 0, (0, 0, 0, 0), device, seed=0), adam,
        HardCopy(Fraction(every)), clip, capture,
    )  # fmt: skip


def make_batch(seed=0, size=32):
    rng = np.random.default_rng(seed)
    numpy_batch = Batch(
        obs=rng.normal(size=(size, 3)).astype(np.float32),
        action=rng.integers(2, size=size),
        reward=rng.normal(size=size).astype(np.float32),
        discount=np.full(size, 0.9, np.float32),
        next_obs=rng.normal(size=(size, 3)).astype(np.float32),
        weight=np.ones(size, np.float32),
        index=np.arange(size),
    )
    return Staging(numpy_batch, CPU).device
