"""Statistics over runs: values computed by hand, and those of SciPy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fastdqn.report.statistics import (
    improvement_interval,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)


def column(*values: float) -> np.ndarray:
    """Returns the scores of runs of one task."""
    return np.array(values, np.float64)[:, None]


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert iqm(column(100, 1, 2, 3)) == 2.5  # without 1 and 100
    assert iqm(column(9, 0, 2, 3, 4)) == 3.0  # of five, one at each end
    assert iqm(column(0, 0, 1, 2, 3, 4, 50, 60)) == 2.5  # without 0, 0, 50 and 60


def test_of_less_than_four_runs_none_is_left_out():
    assert iqm(column(1, 2, 6)) == 3.0
    assert iqm(column(1, 2)) == 1.5
    assert iqm(column(7)) == 7.0


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 7, 8, 11, 20])
def test_the_interquartile_mean_is_that_of_scipy_as_rliable_calls_it(runs):
    scores = np.random.default_rng(runs).normal(size=(runs, 3))
    expected = stats.trim_mean(scores.ravel(), proportiontocut=0.25)
    assert iqm(scores) == pytest.approx(expected, rel=1e-12)
    both = np.stack([scores, scores + 1])
    np.testing.assert_allclose(iqm(both), [expected, expected + 1])


def test_the_probability_of_improvement_counts_pairs_and_half_of_the_ties():
    # 3 is above 1 and 2; 2 is above 1 and ties with 2: 3.5 of 4 pairs.
    assert probability_of_improvement(column(3, 2), column(1, 2)) == 3.5 / 4
    assert probability_of_improvement(column(1, 2), column(3, 2)) == 0.5 / 4
    assert probability_of_improvement(column(5, 5), column(5, 5, 5)) == 0.5
    assert probability_of_improvement(column(6), column(1, 2)) == 1.0


def test_the_probability_of_improvement_is_the_mean_over_tasks():
    x, y = np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 5.0], [2.0, 0.0]])
    # 3.5 of 4 in the first task; two ties, 1 of 4, in the second.
    assert probability_of_improvement(x, y) == (3.5 / 4 + 1 / 4) / 2


def test_the_probability_of_improvement_is_the_u_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.integers(9, size=12).astype(float), rng.integers(9, size=9).astype(float)
    u = stats.mannwhitneyu(x, y, alternative="greater").statistic
    assert probability_of_improvement(x[:, None], y[:, None]) == pytest.approx(u / (12 * 9))


def test_the_interval_is_that_of_all_resamples():
    """Two runs have four resamples: means 0, 5, 5 and 10, a quarter each."""
    found = stratified_bootstrap(column(0, 10))
    assert found == (0.0, 10.0)
    # Half of the resamples are 5, a quarter below and above: the central 40 % are all 5.
    assert stratified_bootstrap(column(0, 10), level=0.4) == (5.0, 5.0)


def test_the_interval_has_the_percentiles_of_the_exact_distribution():
    """All 5^5 resamples of five runs."""
    scores = column(1, 2, 4, 8, 16)
    values = [iqm(scores[list(rows)]) for rows in itertools.product(range(5), repeat=5)]
    exact = np.percentile(values, [2.5, 97.5])
    found = stratified_bootstrap(scores)
    assert found is not None
    np.testing.assert_allclose(found, exact, atol=0.35)


def test_runs_are_resampled_within_each_task():
    """The columns are constant, so no resample differs; across tasks they would."""
    scores = np.array([[1.0, 100.0], [1.0, 100.0], [1.0, 100.0]])
    mean = stratified_bootstrap(scores, lambda s: s.mean(axis=(1, 2)))
    assert mean == (50.5, 50.5)


def test_the_interval_of_the_improvement_is_that_of_independent_resamples():
    # Above, below and tie at once: 2 x 2 runs, resampled to (3,3), (3,1), (1,3), (1,1) against 2.
    found = improvement_interval(column(3, 1), column(2, 2))
    assert found == (0.0, 1.0)
    assert improvement_interval(column(3, 1), column(2, 2), level=0.4) == (0.5, 0.5)
    assert improvement_interval(column(3, 4), column(1, 2)) == (1.0, 1.0)
    assert improvement_interval(column(2, 2), column(2, 2)) == (0.5, 0.5)


def test_resamples_from_counts_are_those_from_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, size=(6, 2)), rng.normal(size=(8, 2))
    drawn = []
    for _ in range(4_000):
        xs = x[rng.integers(6, size=(6, 2)), np.arange(2)]
        ys = y[rng.integers(8, size=(8, 2)), np.arange(2)]
        drawn.append(probability_of_improvement(xs, ys))
    found = improvement_interval(x, y)
    assert found is not None
    np.testing.assert_allclose(found, np.percentile(drawn, [2.5, 97.5]), atol=0.02)


def test_one_run_has_no_interval():
    assert stratified_bootstrap(column(3)) is None
    assert improvement_interval(column(3), column(1, 2)) is None
    assert improvement_interval(column(3, 4), column(1)) is None


def test_the_same_seed_gives_the_same_interval_in_one_part_or_several(monkeypatch):
    scores = np.random.default_rng(1).normal(size=(7, 1))
    first = stratified_bootstrap(scores, resamples=500)
    assert stratified_bootstrap(scores, resamples=500) == first
    assert stratified_bootstrap(scores, resamples=500, seed=1) != first
    monkeypatch.setattr("fastdqn.report.statistics._HELD", 70)
    assert stratified_bootstrap(scores, resamples=500) == first
