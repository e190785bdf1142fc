"""Munchausen: soft policy, entropy and clipped bonus, by hand and in an update."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportIndexIssue=false

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import Queries
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import PlainHead
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.value import ScalarValue, squared_error
from fastdqn.replay import Batch
from helpers.learners import make_learner
from helpers.oracles_values import munchausen_target, soft_policy

CPU = torch.device("cpu")


def refuse() -> torch.Tensor:
    raise AssertionError("the online network was asked at next_obs")


def queries(here, following, action, mask=None, next_mask=None) -> Queries:
    return Queries(
        target_next=lambda: torch.tensor(following),
        online_next=refuse,
        target_obs=lambda: torch.tensor(here),
        action=torch.tensor(action),
        next_mask=None if next_mask is None else torch.tensor(next_mask),
        mask=None if mask is None else torch.tensor(mask),
    )


# At temperature 1: policies 1/5, 4/5 at obs; 1/4, 3/4 at next_obs.
HERE, FOLLOWING = [[0.0, math.log(4.0)]], [[0.0, math.log(3.0)]]


def test_policy_entropy_and_bonus_by_hand():
    bootstrap = MunchausenBackup(0.9, 1.0, -9.0)(queries(HERE, FOLLOWING, [1]))
    assert bootstrap.action_weights.tolist() == [pytest.approx([0.25, 0.75])]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert bootstrap.entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert bootstrap.bonus.item() == pytest.approx(0.9 * math.log(0.8), rel=1e-5)


def test_the_temperature_divides_values_and_scales_entropy_and_bonus():
    halved = [[value / 2 for value in row] for row in (HERE[0], FOLLOWING[0])]
    bootstrap = MunchausenBackup(0.9, 0.5, -9.0)(queries(halved[:1], halved[1:], [1]))
    assert bootstrap.action_weights.tolist() == [pytest.approx([0.25, 0.75])]
    entropy = -0.5 * (0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert bootstrap.entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert bootstrap.bonus.item() == pytest.approx(0.9 * 0.5 * math.log(0.8), rel=1e-5)


def test_the_scaled_log_probability_is_cut_off_before_its_share_is_taken():
    backup = MunchausenBackup(0.9, 1.0, -1.0)  # log(1/5) is -1.6
    bootstrap = backup(queries(HERE * 2, FOLLOWING * 2, [0, 1]))
    assert bootstrap.bonus.tolist() == pytest.approx([-0.9, 0.9 * math.log(0.8)])


@pytest.mark.slow
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0.01, 5),
)  # fmt: skip
def test_mixture_and_entropy_together_are_the_log_sum_of_exponentials(values, temperature):
    """sum pi (q - t log pi) = t log sum exp(q / t), whatever the values."""
    bootstrap = MunchausenBackup(0.9, temperature, -1.0)(queries([values], [values], [0]))
    soft = bootstrap.action_weights @ torch.tensor(values) + bootstrap.entropy
    scaled = torch.tensor(values, dtype=torch.float64) / temperature
    expected = temperature * scaled.logsumexp(0).item()
    assert soft.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e35])
def test_at_a_temperature_near_zero_it_is_the_maximum(scale):
    values = [[1.0 * scale, 3.0 * scale, 2.0 * scale]]
    bootstrap = MunchausenBackup(0.9, 1e-6, -1.0)(queries(values * 2, values * 2, [1, 0]))
    assert bootstrap.action_weights.tolist() == [[0.0, 1.0, 0.0]] * 2
    assert bootstrap.entropy.tolist() == [0.0, 0.0]
    assert bootstrap.bonus.tolist() == pytest.approx([0.0, -0.9])  # the best one costs nothing


def test_masked_actions_have_no_weight_at_both_states():
    """Equal values: half and half among two allowed of three, whatever the third is worth."""
    values = [[1.0, 99.0, 1.0]]
    bootstrap = MunchausenBackup(1.0, 2.0, -9.0)(
        queries(values, values, [2], mask=[[True, False, True]], next_mask=[[True, False, True]])
    )
    assert bootstrap.action_weights.tolist() == [pytest.approx([0.5, 0.0, 0.5])]
    assert bootstrap.entropy.item() == pytest.approx(2.0 * math.log(2.0))
    assert bootstrap.bonus.item() == pytest.approx(2.0 * math.log(0.5))


def test_each_mask_is_for_its_own_state():
    values = [[0.0, 0.0]]
    bootstrap = MunchausenBackup(1.0, 1.0, -9.0)(
        queries(values, values, [0], mask=[[True, False]], next_mask=[[True, True]])
    )
    assert bootstrap.bonus.item() == 0.0
    assert bootstrap.action_weights.tolist() == [[0.5, 0.5]]


VALUES = [
    pytest.param(ScalarValue(squared_error), lambda q: torch.tensor(q), id="scalar"),
    pytest.param(
        QuantileValue(3),
        lambda q: torch.tensor(q)[:, None] + torch.tensor([-2.0, 0.0, 2.0])[:, None],
        id="quantile",
    ),
    pytest.param(
        ImplicitQuantileValue(3, 3),
        lambda q: torch.tensor(q)[:, None] + torch.tensor([-2.0, 0.0, 2.0])[:, None],
        id="implicit-quantile",
    ),
]


@pytest.mark.parametrize(("value", "output"), VALUES)
@pytest.mark.parametrize("discount", [0.0, 0.9**3])
def test_every_value_has_the_papers_target_and_the_bonus_is_never_discounted(
    value, output, discount
):
    here, following = [[0.5, 1.0]], [[0.3, -0.2]]
    bootstrap = MunchausenBackup(0.9, 0.5, -1.0)(
        queries(value.expected(output(here)).tolist(), value.expected(output(following)).tolist(),
                [0])
    )  # fmt: skip
    target = value.target(
        output(following), bootstrap, torch.tensor([1.5]), torch.tensor([discount])
    )
    expected = munchausen_target(1.5, discount, here[0], 0, following[0], 0.9, 0.5, -1.0)
    assert target.mean().item() == pytest.approx(expected, rel=1e-5)
    if target.ndim == 2:  # the spread is the next state's, discounted
        spread = (target[0, 2] - target[0, 0]).item()
        assert spread == pytest.approx(4.0 * discount, abs=1e-5)


def test_one_update_on_a_two_state_mdp_equals_the_closed_form():
    """A linear network on one-hot states, its target at other weights: both states of the target
    are asked, the online network only for the prediction."""
    learner = make_learner(
        hidden=(), head=PlainHead, backup=MunchausenBackup(0.9, 0.5, -1.0), learning_rate=0.5
    )
    online, target = np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[0.5, 2.0], [1.0, 1.5]])
    for flat, q in ((learner.online, online), (learner.target, target)):
        flat.weights.zero_()
        flat.module.head.values.weight.data[:, :2] = torch.tensor(q.T)  # q[s, a]
    batch = Staging(
        Batch(
            obs=np.float32([[1, 0, 0], [0, 1, 0]]), action=np.array([0, 1]),
            reward=np.float32([0.5, -1]), discount=np.float32([0.9**3, 0]),
            next_obs=np.float32([[0, 1, 0], [1, 0, 0]]), weight=np.float32([1, 1]),
            index=np.arange(2),
        ),
        CPU,
    ).device  # fmt: skip
    priority = learner.update(batch)
    first = munchausen_target(0.5, 0.9**3, target[0], 0, target[1], 0.9, 0.5, -1.0)
    second = munchausen_target(-1.0, 0.0, target[1], 1, target[0], 0.9, 0.5, -1.0)
    errors = [first - online[0, 0], second - online[1, 1]]
    np.testing.assert_allclose(priority, np.abs(errors), rtol=1e-5)
    gradient = learner.online.module.head.values.weight.grad
    np.testing.assert_allclose(
        gradient, [[-errors[0], 0, 0], [0, -errors[1], 0]], rtol=1e-5, atol=1e-6
    )


def test_the_slow_policy_is_a_softmax():
    assert soft_policy([0.0, math.log(3.0)], 1.0) == pytest.approx([0.25, 0.75])
