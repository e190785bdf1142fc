"""Learners and batches for the fused kernel."""

from fractions import Fraction

import numpy as np
import torch

from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import DoubleBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import FusedStep
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


# At a learning rate of 1e-3 even autograd on permuted batches differs by more: rounding decides the
# sign of a unit, and Adam's step does not depend on the size of the gradient.
RATE = 2.5e-4


NEAR = 1e-4


def make_online(inputs=4, hidden=(24,), actions=3, head=DuelingHead, scale=1.0):
    torch.manual_seed(0)
    network = QNetwork(
        MLP(inputs, hidden), head((inputs, *hidden)[-1], Outputs(actions)), obs_scale=scale
    )
    return FlatParameters(network, CPU)


def make_learner(
    make_step, inputs=4, hidden=(24,), actions=3, head=DuelingHead, backup=None,
    loss=squared_error, clip=None, follower=None, scale=1.0, rate=RATE,
):  # fmt: skip
    online = make_online(inputs, hidden, actions, head, scale)
    return Learner(
        online, ScalarValue(loss), backup or DoubleBackup(), Draws(1, 0, (0, 0, 0, 0), CPU, seed=0),
        FusedAdam(online.weights, online.gradient, rate), follower or HardCopy(Fraction(7)), clip,
        make_step=make_step,
    )  # fmt: skip


def make_both(**options) -> tuple[Learner, Learner]:
    return make_learner(None, **options), make_learner(FusedStep, **options)


def make_batches(count, size=40, shape=(4,), actions=3, masks=False, dtype=np.float32):
    rng = np.random.default_rng(1)

    def obs():
        if dtype == np.float32 or dtype == np.float64:
            return rng.normal(size=(size, *shape)).astype(dtype)
        return rng.integers(0, 2 if dtype == np.bool_ else 100, (size, *shape)).astype(dtype)

    for _ in range(count):
        mask = None
        if masks:
            mask = rng.random((size, actions)) < 0.5
            mask[np.arange(size), rng.integers(actions, size=size)] = True
        yield Staging(
            Batch(
                obs=obs(),
                action=rng.integers(actions, size=size),
                reward=rng.normal(size=size).astype(np.float32) * 2,
                discount=np.where(rng.random(size) < 0.1, 0.0, 0.9).astype(np.float32),
                next_obs=obs(),
                weight=rng.random(size).astype(np.float32),
                index=np.arange(size),
                next_mask=mask,
                mask=mask,
            ),
            CPU,
        ).device


def assert_equal_paths(torch_learner, fused_learner, batches):
    """Asserts that weights, target and priorities agree after every update."""
    for batch in batches:
        expected, priority = torch_learner.update(batch), fused_learner.update(batch)
        torch.testing.assert_close(priority, expected, rtol=NEAR, atol=NEAR)
    for name, expected in torch_learner.state().items():
        if isinstance(expected, np.ndarray) and name != "loss_total":
            np.testing.assert_allclose(fused_learner.state()[name], expected, rtol=0, atol=NEAR)
    expected, report = torch_learner.report(), fused_learner.report()
    np.testing.assert_allclose(report[:3], expected[:3], rtol=1e-4, atol=1e-5)
    assert report.learning_rate == expected.learning_rate
