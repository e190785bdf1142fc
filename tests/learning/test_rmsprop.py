"""RMSProp against a computation by hand and a slow twin."""

import math

import numpy as np
import pytest
import torch

from fastdqn.learning.rmsprop import RMSProp
from helpers.capture import graphs
from helpers.learners import make_batch, make_learner


def twin(weights, gradients, rates, decay, epsilon):
    """Returns the weights after all steps, in float64: extended data table 1 of Mnih et al."""
    weights = weights.astype(np.float64)
    mean = square = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        mean = decay * mean + (1 - decay) * gradient
        square = decay * square + (1 - decay) * gradient**2
        weights = weights - rate * gradient / np.sqrt(square - mean**2 + epsilon)
    return weights


def run(optimizer: RMSProp, gradients, rates) -> None:
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.gradient.copy_(torch.tensor(gradient))
        optimizer.learning_rate.fill_(rate)
        optimizer.step()


def test_the_first_step_by_hand():
    """Means 0.05 g and 0.05 g^2: the scale of a gradient of 1 is sqrt(0.05 - 0.0025 + 0.01)."""
    weights, gradient = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, -2.0, 0.0])
    optimizer = RMSProp(weights, gradient, 0.5, epsilon=0.01)
    optimizer.step()
    expected = [1 - 0.5 / math.sqrt(0.0575), 1 + 1 / math.sqrt(0.2), 1.0]
    assert optimizer.weights.tolist() == pytest.approx(expected, rel=1e-6)


def test_by_default_a_mean_of_32_gradients_steps_as_their_sum_in_the_paper():
    gradients = np.random.default_rng(3).normal(scale=0.1, size=(50, 6)).astype(np.float32)
    mean = RMSProp(torch.zeros(6), torch.zeros(6), 2.5e-4)
    summed = RMSProp(torch.zeros(6), torch.zeros(6), 2.5e-4, epsilon=0.01)
    run(mean, gradients, np.full(50, 2.5e-4))
    run(summed, 32 * gradients, np.full(50, 2.5e-4))
    np.testing.assert_allclose(mean.weights, summed.weights, rtol=1e-5)


@pytest.mark.parametrize(("decay", "epsilon"), [(0.95, 0.01), (0.5, 1e-4), (0.0, 0.3)])
def test_it_equals_its_slow_twin_for_200_steps_with_a_change_of_rate(decay, epsilon):
    weights = np.linspace(-1, 1, 7, dtype=np.float32)
    gradients = np.random.default_rng(1).normal(size=(200, 7)).astype(np.float32)
    rates = np.repeat([1e-2, 1e-3], 100)
    optimizer = RMSProp(torch.tensor(weights), torch.zeros(7), 1e-2, decay, epsilon)
    run(optimizer, gradients, rates)
    expected = twin(weights, gradients.astype(np.float64), rates, decay, epsilon)
    np.testing.assert_allclose(optimizer.weights, expected, rtol=1e-4, atol=1e-5)


def test_a_large_constant_gradient_leaves_weights_finite():
    """The variance is a difference of equal numbers, whose rounding error is above epsilon."""
    optimizer = RMSProp(torch.zeros(64), torch.linspace(1e3, 3e5, 64), 1e-3)
    for _ in range(400):
        optimizer.step()
    assert optimizer.weights.isfinite().all()
    assert (optimizer.weights < 0.0).all()


def test_its_tensors_are_its_whole_state_and_stay_in_place():
    gradients = np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32)
    rates = np.full(20, 1e-2)
    first = RMSProp(torch.ones(5), torch.zeros(5), 1e-2)
    pointers = [tensor.data_ptr() for tensor in (first.weights, *first.tensors().values())]
    run(first, gradients[:10], rates[:10])
    second = RMSProp(first.weights.clone(), torch.zeros(5), 1.0)
    for name, tensor in first.tensors().items():
        second.tensors()[name].copy_(tensor)
    for optimizer in (first, second):
        run(optimizer, gradients[10:], rates[10:])
    assert torch.equal(first.weights, second.weights)
    assert pointers == [tensor.data_ptr() for tensor in (first.weights, *first.tensors().values())]


def test_a_learner_learns_with_it_and_warm_up_changes_nothing():
    prepared, fresh = (make_learner(optimizer=RMSProp) for _ in range(2))
    prepared.prepare(make_batch(9))
    before = fresh.online.weights.clone()
    for learner in (prepared, fresh):
        for seed in range(3):
            learner.update(make_batch(seed))
    assert torch.equal(prepared.online.weights, fresh.online.weights)
    assert not torch.equal(fresh.online.weights, before)


def test_a_replayed_update_equals_an_eager_one_bitwise():
    reference = make_learner(optimizer=RMSProp, clip=1.0)
    replayed = make_learner(optimizer=RMSProp, clip=1.0, capture=graphs())
    replayed.prepare(make_batch())
    for update in range(20):
        if update == 10:
            for learner in (reference, replayed):
                learner.optimizer.learning_rate.fill_(1e-4)
        batch = make_batch(update)
        assert torch.equal(replayed.update(batch), reference.update(batch))
    assert torch.equal(replayed.online.weights, reference.online.weights)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decay": 1.0}, "decay is 1.0, must be at least 0 and below 1"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"epsilon": 0.0}, "epsilon is 0.0, must be above 0"),
    ],
)
def test_settings_outside_their_limits_are_rejected(settings, says):
    with pytest.raises(ValueError, match=says):
        RMSProp(torch.zeros(1), torch.zeros(1), 0.1, **settings)
