"""Cadence, and schedules of epsilon and learning rate: exact for any stride."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.schedules import (
    Budget,
    Constant,
    Cosine,
    EpisodicEpsilon,
    Linear,
    Piecewise,
    linear_rate,
    ticks,
)

counts = st.integers(0, 10**12)
periods = st.one_of(
    st.integers(1, 10**6),
    st.fractions(min_value=Fraction(1, 1000), max_value=1000).filter(lambda per: per > 0),
)


@pytest.mark.slow
@given(st.lists(st.integers(0, 5000), max_size=30), counts, periods)
def test_ticks_of_consecutive_intervals_add_up_to_those_of_the_whole(strides, start, per):
    now, total = start, 0
    for stride in strides:
        total += ticks(now, now + stride, per)
        now += stride
    assert total == ticks(start, now, per)


@pytest.mark.slow
@given(counts, st.integers(0, 10**6), periods)
def test_ticks_are_within_one_of_the_interval_over_the_period(before, stride, per):
    assert abs(ticks(before, before + stride, per) - stride / Fraction(per)) < 1


@given(counts, periods)
def test_nothing_ticks_while_nothing_happens(now, per):
    assert ticks(now, now, per) == 0


def test_a_tick_falls_when_the_multiple_is_reached_not_before_and_not_after():
    assert [ticks(i, i + 1, 3) for i in range(7)] == [0, 0, 1, 0, 0, 1, 0]


def test_a_fraction_of_a_step_ticks_several_times_a_step():
    assert [ticks(i, i + 1, Fraction(1, 3)) for i in range(4)] == [3, 3, 3, 3]
    assert [ticks(i, i + 1, Fraction(3, 2)) for i in range(6)] == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("num_envs", [1, 3, 7, 64])
def test_the_rate_of_ticks_does_not_depend_on_the_number_of_environments(num_envs):
    per = Fraction(10)
    total = sum(ticks(i, i + num_envs, per) for i in range(0, 6720, num_envs))
    assert total == 672


def test_linear_epsilon_begins_at_initial_is_halfway_in_the_middle_and_stays_at_final():
    epsilon = Linear(1.0, 0.1, 1000)
    assert epsilon(0, 0) == 1.0
    assert epsilon(500, 99) == pytest.approx(0.55)
    assert [epsilon(steps, 0) for steps in (1000, 1001, 10**9)] == [0.1] * 3


def test_linear_epsilon_over_no_steps_is_final_at_once():
    assert Linear(1.0, 0.1, 0)(0, 0) == 0.1


def test_episodic_epsilon_is_multiplied_for_each_episode_until_final():
    epsilon = EpisodicEpsilon(1.0, 0.25, 0.5)
    assert [epsilon(12345, episodes) for episodes in range(4)] == [1.0, 0.5, 0.25, 0.25]
    assert epsilon(0, 10**9) == 0.25


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6), counts)
def test_linear_epsilon_never_leaves_its_ends(initial, final, over_steps, steps):
    value = Linear(initial, final, over_steps)(steps, 0)
    assert min(initial, final) - 1e-12 <= value <= max(initial, final) + 1e-12


def test_a_budget_without_any_limit_is_rejected():
    with pytest.raises(ValueError, match="total_steps or total_episodes"):
        Budget(None, None)


@pytest.mark.parametrize(
    ("budget", "steps", "episodes", "spent"),
    [
        (Budget(100, None), 99, 10**6, False),
        (Budget(100, None), 100, 0, True),
        (Budget(None, 5), 10**9, 4, False),
        (Budget(None, 5), 0, 5, True),
        (Budget(100, 5), 99, 4, False),
        (Budget(100, 5), 99, 5, True),
        (Budget(100, 5), 100, 4, True),
    ],
)
def test_a_budget_is_spent_by_whichever_comes_first(budget, steps, episodes, spent):
    assert budget.spent(steps, episodes) is spent


def test_steps_over_the_budget_cause_no_updates():
    assert [Budget(100, None).counted(steps) for steps in (99, 100, 163)] == [99, 100, 100]
    assert Budget(None, 5).counted(163) == 163


def test_the_spent_share_is_the_larger_one_and_never_above_one():
    budget = Budget(100, 10)
    assert budget.fraction(0, 0) == 0.0
    assert budget.fraction(50, 2) == 0.5
    assert budget.fraction(50, 8) == 0.8
    assert budget.fraction(170, 8) == 1.0


# -- learning rates


def test_a_constant_rate_does_not_change():
    assert [Constant(3e-4)(steps) for steps in (0, 500, 10**12)] == [3e-4] * 3


def test_a_linear_rate_begins_at_the_rate_and_ends_with_the_run():
    rate = linear_rate(1.0, 0.2, 1000)
    assert rate(0) == 1.0
    assert rate(500, 9) == pytest.approx(0.6)
    assert [rate(steps) for steps in (1000, 10**9)] == [0.2] * 2


def test_a_cosine_is_flat_at_both_ends_and_halfway_in_the_middle():
    rate = Cosine(1.0, 0.2, 1000)
    assert rate(0) == 1.0
    assert rate(500, 9) == pytest.approx(0.6)
    assert [rate(steps) for steps in (1000, 1001, 10**9)] == [0.2] * 3
    assert rate(250) == pytest.approx(0.2 + 0.8 * (0.5 + 0.5**1.5))
    assert rate(10) > 0.999
    assert rate(990) < 0.201


def test_a_piecewise_rate_meets_its_points_and_is_linear_between_them():
    rate = Piecewise(1.0, (100, 300), (0.5, 0.9))
    points = [rate(steps) for steps in (0, 50, 100, 200, 300, 301, 10**9)]
    assert points == pytest.approx([1.0, 0.75, 0.5, 0.7, 0.9, 0.9, 0.9])
    assert (rate(0), rate(100), rate(300)) == (1.0, 0.5, 0.9)
    assert Piecewise(0.3, (), ())(77, 5) == 0.3


@pytest.mark.parametrize(
    ("steps", "values", "says"),
    [
        ((1, 2), (0.1,), "learning_rate_steps has 2 entries and learning_rate_values 1"),
        ((0,), (0.1,), "learning_rate_steps has 0 after 0, must ascend from 1"),
        ((5, 5), (0.1, 0.2), "learning_rate_steps has 5 after 5"),
        ((5, 3), (0.1, 0.2), "learning_rate_steps has 3 after 5"),
        ((-1,), (0.1,), "learning_rate_steps has -1 after 0"),
    ],
)
def test_points_that_do_not_ascend_or_lack_values_are_rejected(steps, values, says):
    with pytest.raises(ValueError, match=says):
        Piecewise(1.0, steps, values)
