"""Value distributions against computations by hand and slow twins: atoms and quantiles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.categorical import CategoricalValue, project_categorical
from fastdqn.learning.implicit_quantile import ImplicitHead, ImplicitQuantileValue
from fastdqn.learning.networks import Outputs, PlainHead
from fastdqn.learning.quantile import QuantileValue, midpoints, quantile_huber
from fastdqn.learning.random_inputs import MEANS, Draw
from fastdqn.learning.value import ScalarValue, huber, of_action, squared_error
from helpers.oracles_values import projected, quantile_loss

CPU = torch.device("cpu")
ATOMS = torch.tensor([0.0, 1.0, 2.0])
EACH = [0.2, 0.3, 0.5]


def project(reward: float, discount: float, probs=EACH, atoms=ATOMS) -> list[float]:
    moved = project_categorical(
        torch.tensor([probs]), atoms, torch.tensor([reward]), torch.tensor([discount])
    )
    return moved[0].tolist()


# -- atoms


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        pytest.param(0.0, 1.0, EACH, id="nothing happens"),
        pytest.param(0.5, 1.0, [0.1, 0.25, 0.65], id="half way between atoms"),
        pytest.param(1.0, 1.0, [0.0, 0.2, 0.8], id="exactly one atom on"),
        pytest.param(0.0, 0.5, [0.35, 0.65, 0.0], id="drawn together"),
        pytest.param(2.0, 1.0, [0.0, 0.0, 1.0], id="all on the last atom, or beyond"),
        pytest.param(-9.0, 1.0, [1.0, 0.0, 0.0], id="below the first"),
        pytest.param(9e9, 1.0, [0.0, 0.0, 1.0], id="far above the last"),
        pytest.param(0.25, 0.0, [0.75, 0.25, 0.0], id="an end is the reward alone"),
        pytest.param(2.0, 0.0, [0.0, 0.0, 1.0], id="an end exactly on the last atom"),
    ],
)
def test_a_distribution_is_shifted_and_projected_to_the_atoms(reward, discount, expected):
    assert project(reward, discount) == pytest.approx(expected, abs=1e-6)


def test_each_row_is_shifted_by_its_own_reward_and_discount():
    rows = project_categorical(
        torch.tensor([EACH, EACH]), ATOMS, torch.tensor([1.0, 0.25]), torch.tensor([1.0, 0.0])
    )
    assert rows.tolist() == [
        pytest.approx([0.0, 0.2, 0.8], abs=1e-6),
        pytest.approx([0.75, 0.25, 0.0], abs=1e-6),
    ]


numbers = st.floats(-30, 30, allow_nan=False)


@given(
    st.integers(2, 12), st.floats(-10, 10), st.floats(0.1, 20), numbers, st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_projection_equals_its_slow_twin(num_atoms, v_min, span, reward, discount, seed):
    atoms = torch.linspace(v_min, v_min + span, num_atoms, dtype=torch.float64)
    probs = np.random.default_rng(seed).dirichlet(np.full(num_atoms, 0.5))
    moved = project_categorical(
        torch.tensor(probs)[None], atoms, torch.tensor([reward], dtype=torch.float64),
        torch.tensor([discount], dtype=torch.float64),
    )[0]  # fmt: skip
    twin = projected(probs.tolist(), atoms.tolist(), reward, discount)
    np.testing.assert_allclose(moved, twin, atol=1e-9)


@pytest.mark.slow
@given(numbers, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_no_mass_is_lost_in_float32_and_within_the_ends_the_mean_is_exact(reward, discount, seed):
    atoms = torch.linspace(-10.0, 10.0, 51)
    probs = torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(51)), dtype=torch.float32)
    moved = project_categorical(
        probs[None], atoms, torch.tensor([reward]), torch.tensor([discount])
    )[0]
    assert moved.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert moved.min().item() >= -1e-7
    if abs(reward) + 10 * discount < 10:
        mean = reward + discount * (probs @ atoms).item()
        assert (moved @ atoms).item() == pytest.approx(mean, abs=1e-4)


def test_the_loss_of_atoms_is_the_divergence_and_its_gradient_prediction_minus_target():
    logits = torch.tensor([[[0.0], [math.log(3.0)]]], requires_grad=True)  # [1, 2, 1]: 1/4, 3/4
    value, target = CategoricalValue(2, 0.0, 4.0), torch.tensor([[0.5, 0.5]])
    result = value.loss(logits, torch.tensor([0]), target, MEANS)
    assert result.loss.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    assert result.priority.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    assert result.taken.item() == pytest.approx(3.0)
    result.loss.sum().backward()
    np.testing.assert_allclose(logits.grad.flatten(), [-0.25, 0.25], atol=1e-6)  # pyright: ignore


def test_atoms_that_agree_have_no_loss_even_where_the_target_is_certain():
    value = CategoricalValue(3, 0.0, 2.0)
    logits = torch.tensor([[[-100.0], [100.0], [-100.0]]])
    result = value.loss(logits, torch.tensor([0]), torch.tensor([[0.0, 1.0, 0.0]]), MEANS)
    assert result.loss.item() == pytest.approx(0.0, abs=1e-6)
    assert result.priority.item() >= 0.0


def test_no_rounding_makes_a_priority_of_atoms_negative():
    output = torch.randn(4096, 51, 1, generator=torch.Generator().manual_seed(0))
    result = CategoricalValue(51, -1.0, 1.0).loss(
        output, torch.zeros(4096, dtype=torch.int64), output[:, :, 0].softmax(1), MEANS
    )
    assert result.loss.abs().max().item() < 1e-5
    assert (result.priority >= 0.0).all()


def test_atoms_are_weighed_by_their_probabilities():
    output = torch.tensor([[[0.0, 9.0], [0.0, -90.0], [0.0, -90.0]]])  # [1, 3, 2]
    assert CategoricalValue(3, 0.0, 2.0).expected(output).tolist() == [pytest.approx([1.0, 0.0])]


def test_a_target_of_atoms_is_the_mixture_over_actions_one_step_on():
    certain = torch.log(torch.tensor([[[1.0, 1e-9], [1e-9, 1e-9], [1e-9, 1.0]]]))  # atoms 0 and 2
    bootstrap = Bootstrap(torch.tensor([[0.25, 0.75]]))
    target = CategoricalValue(3, 0.0, 2.0).target(
        certain, bootstrap, torch.tensor([0.5]), torch.tensor([0.5])
    )
    # 0.25 at 0.5, 0.75 at 1.5.
    np.testing.assert_allclose(target, [[0.125, 0.5, 0.375]], atol=1e-6)


def test_a_single_atom_is_rejected():
    with pytest.raises(ValueError, match="num_atoms is 1: it must be at least 2"):
        CategoricalValue(1, 0.0, 1.0)


def test_atoms_without_a_range_are_rejected():
    with pytest.raises(ValueError, match=r"v_min is 1\.0, not below v_max 1\.0"):
        CategoricalValue(2, 1.0, 1.0)


def test_atoms_are_evenly_spaced_from_end_to_end():
    value = CategoricalValue(3, 0.0, 2.0)
    assert torch.equal(value.atoms, ATOMS)
    assert (value.outputs_per_action, value.bounds) == (3, (0.0, 2.0))


# -- quantiles


def test_the_quantile_loss_by_hand():
    """Errors 2, 0.5 of the first, 1, -0.5 of the second; Huber 1.5, 0.125, 0.5, 0.125; sides
    0.25, 0.25, 0.75, 0.25: (0.375 + 0.03125) / 2 for each."""
    loss = quantile_huber(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.5]]), torch.tensor([0.25, 0.75])
    )
    assert loss.tolist() == [0.40625]


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_quantile_loss_equals_its_slow_twin(num_predicted, num_target, of_rows, seed):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(3, num_predicted)), 2 * rng.normal(size=(3, num_target))
    fractions = rng.random((3, num_predicted) if of_rows else num_predicted)
    loss = quantile_huber(torch.tensor(prediction), torch.tensor(target), torch.tensor(fractions))
    for i in range(3):
        twin = quantile_loss(prediction[i], target[i], fractions[i] if of_rows else fractions)
        assert loss[i].item() == pytest.approx(twin, rel=1e-9)


def test_a_high_quantile_penalizes_samples_above_it_more():
    prediction, fraction = torch.zeros(2, 1), torch.tensor([0.9])
    above, below = quantile_huber(prediction, torch.tensor([[3.0], [-3.0]]), fraction).tolist()
    assert (above, below) == (pytest.approx(0.9 * 2.5), pytest.approx(0.1 * 2.5))


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.55, 0.95])
def test_the_loss_is_least_at_the_samples_quantile(fraction):
    """Up to 1, within which it is quadratic: samples lie 100 apart."""
    sample = torch.arange(10.0) * 100
    tried = torch.arange(-50.0, 951.0)
    loss = quantile_huber(tried[:, None], sample.expand(len(tried), -1), torch.full((1,), fraction))
    quantile = np.quantile(sample.numpy(), fraction, method="inverted_cdf")
    assert tried[loss.argmin()].item() == pytest.approx(quantile, abs=1.01)


def test_fractions_are_the_middles_of_equal_shares():
    assert midpoints(4, CPU).tolist() == [0.125, 0.375, 0.625, 0.875]


QUANTILES = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [100.0, 200.0]]])  # [1, M, A]
MIXED = Bootstrap(torch.tensor([[0.5, 0.5]]))
SHIFTED = Bootstrap(
    torch.tensor([[0.5, 0.5]]), entropy=torch.tensor([1.0]), bonus=torch.tensor([2.0])
)


def target_of(value, output, bootstrap, reward=1.0, discount=0.5):
    return value.target(output, bootstrap, torch.tensor([reward]), torch.tensor([discount]))


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [(MIXED, [3.75, 9.25, 76.0]), (SHIFTED, [6.25, 11.75, 78.5])],
)
def test_each_quantile_of_a_target_is_mixed_shifted_and_moved(bootstrap, expected):
    value = QuantileValue(3)
    assert target_of(value, QUANTILES, bootstrap).tolist() == [expected]
    assert target_of(value, QUANTILES, bootstrap, discount=0.0)[0].unique().numel() == 1


def test_the_first_fractions_of_a_pass_make_the_target_and_the_last_say_what_is_best():
    value = ImplicitQuantileValue(num_target_fractions=2, num_policy_fractions=1)
    assert value.expected(QUANTILES).tolist() == [[100.0, 200.0]]
    assert target_of(value, QUANTILES, SHIFTED).tolist() == [[6.25, 11.75]]


def test_a_quantile_value_expects_the_mean_of_its_quantiles():
    assert QuantileValue(3).expected(QUANTILES).tolist() == [pytest.approx([104 / 3, 80.0])]


def test_quantile_losses_are_of_the_action_taken_at_their_own_fractions():
    output, target = QUANTILES[:, :2], torch.tensor([[12.0, 28.0]])
    action = torch.tensor([1])
    fractions = torch.tensor([[0.1, 0.6]])
    implicit = ImplicitQuantileValue(2, 2).loss(output, action, target, Draw(None, fractions))
    fixed = QuantileValue(2).loss(output, action, target, MEANS)
    for result, taus in ((implicit, [0.1, 0.6]), (fixed, [0.25, 0.75])):
        twin = quantile_loss([10.0, 30.0], [12.0, 28.0], taus)
        assert result.loss.item() == pytest.approx(twin, rel=1e-6)
        assert result.priority.item() == result.loss.item()
        assert result.taken.item() == 20.0


def test_the_numbers_of_an_action_are_picked_by_sample():
    output = torch.arange(12.0).view(2, 3, 2)
    assert of_action(output, torch.tensor([1, 0])).tolist() == [[1.0, 3.0, 5.0], [6.0, 8.0, 10.0]]


def test_an_implicit_head_scales_features_by_cosines_of_the_fraction():
    """Equation 4 of arXiv 1806.06923: relu(sum of w cos(pi i tau) + b), i from 0 to 63."""
    head = ImplicitHead(2, PlainHead(2, Outputs(3)), num_fractions=4)
    features, fractions = torch.randn(5, 2), torch.rand(5, 7)
    output = head(features, Draw(None, fractions))
    assert output.shape == (5, 7, 3)
    i, weight, bias = np.arange(64), head.embedding.weight.detach(), head.embedding.bias.detach()
    cosines = np.cos(np.pi * i * fractions[3, 6].item())
    phi = np.maximum(weight.numpy() @ cosines + bias.numpy(), 0.0)
    expected = head.head(features[3] * torch.tensor(phi, dtype=torch.float32))
    torch.testing.assert_close(output[3, 6], expected, rtol=1e-4, atol=1e-5)
    spaced = Draw(None, midpoints(4, CPU).expand(5, -1))
    # Expanded and contiguous fractions may reach other kernels of a matrix library.
    torch.testing.assert_close(head(features), head(features, spaced), rtol=1e-5, atol=1e-6)


# -- all of them


def losses():
    """(name, value, output shape, target shape, draw) in float64."""
    fractions = torch.rand(3, 4, dtype=torch.float64)
    categorical, quantile = CategoricalValue(4, -1.0, 1.0), QuantileValue(4)
    categorical.atoms = torch.linspace(-1, 1, 4, dtype=torch.float64)
    quantile.fractions = quantile.fractions.double()
    return [
        ("squared", ScalarValue(squared_error), (3, 2), (3,), MEANS),
        ("huber", ScalarValue(huber), (3, 2), (3,), MEANS),
        ("categorical", categorical, (3, 4, 2), (3, 4), MEANS),
        ("quantile", quantile, (3, 4, 2), (3, 5), MEANS),
        ("implicit", ImplicitQuantileValue(4, 4), (3, 4, 2), (3, 5), Draw(None, fractions)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", losses(), ids=lambda case: case[0])
def test_the_gradient_of_a_loss_is_its_slope(case):
    name, value, shape, target_shape, draw = case
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    target = 2 * torch.randn(target_shape, dtype=torch.float64, generator=generator)
    if name == "categorical":
        target = target.softmax(1)
    action = torch.tensor([0, 1, 1])
    assert torch.autograd.gradcheck(
        lambda output: value.loss(output, action, target, draw).loss, (output,)
    )


@pytest.mark.parametrize("case", losses(), ids=lambda case: case[0])
def test_a_loss_touches_the_action_taken_alone_and_no_priority_is_negative(case):
    name, value, shape, target_shape, draw = case
    output = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.rand(target_shape, dtype=torch.float64)
    if name == "categorical":
        target = target.softmax(1)
    result = value.loss(output, torch.tensor([0, 1, 1]), target, draw)
    result.loss.sum().backward()
    gradient = output.grad
    assert gradient is not None
    assert gradient[0, ..., 1].abs().max() == gradient[1:, ..., 0].abs().max() == 0.0
    assert gradient[0, ..., 0].abs().max() > 0.0
    assert not result.priority.requires_grad
    assert (result.priority >= 0.0).all()
