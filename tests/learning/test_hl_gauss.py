"""HLGaussValue against computations by hand, a slow twin and the cross entropy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from fastdqn.learning.adam import Adam, FusedAdam, PlainAdam
from fastdqn.learning.bootstrap_targets import Bootstrap, DoubleBackup, MaxBackup, Queries
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.random_inputs import MEANS
from fastdqn.learning.value import ScalarValue, squared_error
from helpers.capture import graphs
from helpers.compiler import traced
from helpers.learners import make_batch, make_learner
from helpers.oracles_values import gaussian_histogram, munchausen_target

# Two bins with the centers 1 and 3.
TWO = HLGaussValue(2, 0.0, 4.0, 1.0)


def logits(*probs: float) -> torch.Tensor:
    """Returns the logits [1, Z, 1] of one action."""
    return torch.tensor(probs).log().reshape(1, -1, 1)


def histogram(value: HLGaussValue, target: float) -> list[float]:
    return value.histogram(torch.tensor([target]))[0].tolist()


def test_its_attributes_describe_the_output():
    value = HLGaussValue(5, -1.0, 9.0)
    assert (value.outputs_per_action, value.bounds, value.takes_bonus) == (5, (-1.0, 9.0), True)
    assert value.centers.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert value.to(torch.device("cpu")) is value


def test_a_value_is_the_expectation_of_the_centers():
    output = torch.tensor([[[0.25, 1.0], [0.75, 1e-30]]]).log()  # [1, 2, 2]
    assert TWO.expected(output).tolist() == [pytest.approx([2.5, 1.0])]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Standard normal: 0.3413 of the mass is in 0 to 1, 0.1359 in 1 to 2.
        pytest.param(2.0, [0.5, 0.5], id="the middle"),
        pytest.param(0.0, [0.34134 / 0.47725, 0.13591 / 0.47725], id="the lower end"),
        pytest.param(4.0, [0.13591 / 0.47725, 0.34134 / 0.47725], id="the upper end"),
        pytest.param(-1e30, [0.34134 / 0.47725, 0.13591 / 0.47725], id="far below"),
        pytest.param(math.inf, [0.13591 / 0.47725, 0.34134 / 0.47725], id="infinitely above"),
        # 0.38292 within half a standard deviation, 0.43319 from 0 to 1.5, so 0.24173 beyond.
        pytest.param(1.0, [0.38292 / 0.62465, 0.24173 / 0.62465], id="a center"),
    ],
)
def test_a_histogram_by_hand(target, expected):
    assert histogram(TWO, target) == pytest.approx(expected, abs=1e-4)


@given(
    st.integers(2, 12), st.floats(-10, 10), st.floats(0.5, 20), st.floats(0.2, 3),
    st.floats(-0.5, 1.5),
)  # fmt: skip
def test_a_histogram_equals_its_slow_twin(num_atoms, v_min, span, sigma, place):
    value, target = HLGaussValue(num_atoms, v_min, v_min + span, sigma), v_min + place * span
    twin = gaussian_histogram(target, num_atoms, v_min, v_min + span, sigma, parts=400)
    np.testing.assert_allclose(histogram(value, target), twin, atol=1e-4)


@given(st.floats(1e-3, 1e4), st.floats(-1e6, 1e6), st.integers(2, 200))
def test_rows_are_distributions_for_every_sigma_and_target(sigma, target, num_atoms):
    row = np.array(histogram(HLGaussValue(num_atoms, -10.0, 10.0, sigma), target))
    assert row.sum() == pytest.approx(1.0, abs=1e-4)
    assert (row >= 0.0).all()


def test_inside_the_range_the_mean_of_a_histogram_is_the_target():
    value = HLGaussValue(51, -10.0, 10.0)
    targets = torch.linspace(-8.0, 8.0, 99)
    torch.testing.assert_close(value.histogram(targets) @ value.centers, targets, rtol=0, atol=3e-3)


def test_the_loss_is_the_divergence_and_its_gradient_prediction_minus_target():
    output = logits(0.25, 0.75).requires_grad_()
    result = TWO.loss(output, torch.tensor([0]), torch.tensor([2.0]), MEANS)  # target 1/2, 1/2
    assert result.loss.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    assert result.taken.item() == pytest.approx(2.5)
    assert result.priority.item() == pytest.approx(0.5)
    assert not result.priority.requires_grad
    result.loss.sum().backward()
    np.testing.assert_allclose(output.grad.flatten(), [-0.25, 0.25], atol=1e-6)  # pyright: ignore


def test_the_gradient_is_that_of_the_cross_entropy():
    value, action = HLGaussValue(7, -2.0, 3.0), torch.tensor([0, 1, 1, 0])
    output = torch.randn(4, 7, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([-9.0, -0.3, 1.0, 2.9])
    taken = torch.stack([output[i, :, action[i]] for i in range(4)])
    entropy = functional.cross_entropy(taken, value.histogram(target), reduction="none")
    (slope,) = torch.autograd.grad(entropy.sum(), output)
    (found,) = torch.autograd.grad(value.loss(output, action, target, MEANS).loss.sum(), output)
    torch.testing.assert_close(found, slope)
    assert (found[0, :, 1] == 0.0).all()
    assert (found[1, :, 0] == 0.0).all()


def test_a_prediction_that_agrees_has_no_loss():
    value = HLGaussValue(9, 0.0, 1.0, 0.1)  # the target's outer bins have probability 0
    probs = value.histogram(torch.tensor([0.5]))
    assert (probs == 0.0).any()
    output = probs.clamp(min=1e-30).log().unsqueeze(2)
    loss = value.loss(output, torch.tensor([0]), torch.tensor([0.5]), MEANS).loss
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_a_target_outside_the_range_has_a_finite_loss_and_its_whole_error_as_priority():
    output = torch.zeros(2, 2, 1, requires_grad=True)
    result = TWO.loss(output, torch.tensor([0, 0]), torch.tensor([102.0, -1e20]), MEANS)
    assert result.priority.tolist() == pytest.approx([100.0, 1e20])
    assert (result.loss > 0.0).all()
    assert result.loss.max() < 1.0
    result.loss.sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [
        (Bootstrap(torch.tensor([[0.5, 0.5]])), 1.0 + 0.5 * 1.75),
        (
            Bootstrap(torch.tensor([[0.5, 0.5]]), torch.tensor([1.0]), torch.tensor([2.0])),
            1.0 + 2.0 + 0.5 * 2.75,
        ),
        (Bootstrap(torch.tensor([[0.0, 1.0]])), 1.0 + 0.5 * 1.0),
    ],
)
def test_a_target_is_that_of_the_expected_values(bootstrap, expected):
    output = torch.tensor([[[0.25, 1.0], [0.75, 1e-30]]]).log()  # values 2.5 and 1
    reward, discount = torch.tensor([1.0]), torch.tensor([0.5])
    target = TWO.target(output, bootstrap, reward, discount)
    assert target.tolist() == pytest.approx([expected])
    twin = ScalarValue(squared_error).target(TWO.expected(output), bootstrap, reward, discount)
    assert torch.equal(target, twin)
    assert TWO.target(output, bootstrap, reward, 0 * discount).tolist() == pytest.approx(
        [1.0 + (0.0 if bootstrap.bonus is None else 2.0)]
    )


def queries(here: torch.Tensor, following: torch.Tensor, online: torch.Tensor, mask) -> Queries:
    return Queries(
        target_next=lambda: TWO.expected(following),
        online_next=lambda: TWO.expected(online),
        target_obs=lambda: TWO.expected(here),
        action=torch.tensor([1]),
        next_mask=mask,
        mask=None,
    )


VALUES = torch.tensor([[[0.25, 1.0, 0.5], [0.75, 1e-30, 0.5]]]).log()  # 2.5, 1 and 2
OTHERS = VALUES.roll(1, dims=2)  # 2, 2.5 and 1


@pytest.mark.parametrize(
    ("backup", "mask", "value"),
    [
        (MaxBackup(), None, 2.5),
        (MaxBackup(), [False, True, True], 2.0),
        (DoubleBackup(), None, 1.0),  # the online network prefers action 1
        (DoubleBackup(), [True, False, True], 2.5),
    ],
)
def test_backups_select_by_expected_value_among_allowed_actions(backup, mask, value):
    mask = None if mask is None else torch.tensor([mask])
    bootstrap = backup(queries(VALUES, VALUES, OTHERS, mask))
    target = TWO.target(VALUES, bootstrap, torch.tensor([0.5]), torch.tensor([0.9]))
    assert target.tolist() == pytest.approx([0.5 + 0.9 * value])


def test_a_munchausen_target_equals_its_slow_twin():
    bootstrap = MunchausenBackup(0.9, 0.7, -1.0)(queries(VALUES, OTHERS, OTHERS, None))
    target = TWO.target(OTHERS, bootstrap, torch.tensor([0.5]), torch.tensor([0.9]))
    twin = munchausen_target(0.5, 0.9, [2.5, 1.0, 2.0], 1, [2.0, 2.5, 1.0], 0.9, 0.7, -1.0)
    assert target.tolist() == pytest.approx([twin], rel=1e-5)


def test_the_meta_device_and_torch_default_dtypes_change_nothing():
    meta = torch.device("meta")
    value = HLGaussValue(3, 0.0, 1.0).to(meta)
    output, rewards = torch.zeros(4, 3, 2, device=meta), torch.zeros(4, device=meta)
    bootstrap = Bootstrap(torch.zeros(4, 2, device=meta))
    target = value.target(output, bootstrap, rewards, rewards)
    result = value.loss(output, torch.zeros(4, dtype=torch.int64, device=meta), target, MEANS)
    assert [tuple(each.shape) for each in (target, *result)] == [(4,)] * 4
    assert value.expected(output).shape == (4, 2)
    torch.set_default_dtype(torch.float64)
    try:
        value = HLGaussValue(3, 0.0, 1.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert value.centers.dtype == value.edges.dtype == torch.float32
    with meta:
        assert HLGaussValue(3, 0.0, 1.0).centers.device == meta


def make(capture=eager, optimizer: type[Adam] = FusedAdam):
    value = HLGaussValue(7, -3.0, 3.0)
    return make_learner(value=value, capture=capture, clip=1.0, optimizer=optimizer)


def test_a_replayed_update_equals_an_eager_one_bitwise():
    reference, replayed = make(), make(graphs())
    replayed.prepare(make_batch())
    for update in range(10):
        batch = make_batch(update)
        assert torch.equal(replayed.update(batch), reference.update(batch))
    assert torch.equal(replayed.online.weights, reference.online.weights)


def test_an_update_reads_nothing_on_the_host():
    learner = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        priority, taken = learner._step([make_batch()])
    assert (priority.shape, taken.shape) == ((32,), (32,))


@pytest.mark.slow
def test_traced_equals_eager():
    reference, fast = make(), make(traced, PlainAdam)
    fast.prepare(make_batch())
    for update in range(20):
        batch = make_batch(update)
        torch.testing.assert_close(
            fast.update(batch), reference.update(batch), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(fast.online.weights, reference.online.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1, 0.0, 1.0), "num_atoms is 1: it must be at least 2"),
        ((2, 1.0, 1.0), "v_min is 1.0, not below v_max 1.0"),
        ((2, math.nan, 1.0), "v_min is nan, not below v_max"),
        ((2, 0.0, 1.0, 0.0), "hl_gauss_sigma is 0.0, must be above 0"),
        ((2, 0.0, 1.0, math.nan), "hl_gauss_sigma is nan, must be above 0"),
    ],
)
def test_sizes_that_make_no_histogram_are_rejected(arguments, says):
    with pytest.raises(ValueError, match=says):
        HLGaussValue(*arguments)
