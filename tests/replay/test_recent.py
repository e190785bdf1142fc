"""RecentSampler: its distribution against a slow twin, and its draws as those of UniformSampler."""

import math

import numpy as np
import pytest
from scipy import stats

from fastdqn.replay import RecentSampler, Replay, Ring, RowStore, UniformSampler
from helpers.cost import slow_but
from helpers.oracle_recent import recent_probabilities
from helpers.oracles import Xoshiro


def make_replay(num_lanes=1, rows=32, n_steps=1, stack=1, sampler=None) -> Replay:
    return Replay(
        Ring(num_lanes, rows, stack), RowStore(num_lanes, rows, (), np.float32),
        sampler or RecentSampler(), n_steps=n_steps,
    )  # fmt: skip


def play(replay: Replay, lane: int, *lengths: int, end: bool = True) -> None:
    """Adds episodes of these lengths to one lane; the last one ends, or stays open."""
    for number, length in enumerate(lengths):
        replay.start([lane], np.zeros(1))
        for t in range(length):
            over = t == length - 1 and (end or number < len(lengths) - 1)
            replay.add([lane], [0], np.zeros(1), np.zeros(1), [over])


def drawn(replay: Replay, draws: int) -> list[int]:
    batch = replay.new_batch(draws)
    replay.sample(batch)
    assert (batch.weight == 1.0).all()
    return batch.index.tolist()


def assert_distributed(replay: Replay, recency: float, draws: int = 40_000) -> None:
    expected = recent_probabilities(replay, recency)
    rows, probabilities = list(expected), np.array(list(expected.values()))
    index = drawn(replay, draws)
    assert set(index) <= set(rows)
    counts = np.array([index.count(row) for row in rows])
    assert (probabilities * draws).min() >= 5  # chi-square is no good where few are expected
    assert stats.chisquare(counts, probabilities * draws).pvalue > 1e-3


RECENCIES = [1.0, 1.0 + 1e-12, 3.0, 100.0]


@pytest.mark.parametrize("recency", RECENCIES)
def test_a_full_and_wrapped_ring(recency):
    replay = make_replay(rows=20, sampler=RecentSampler(3, recency))
    play(replay, 0, 50, end=False)
    assert_distributed(replay, recency)


@pytest.mark.parametrize("recency", RECENCIES)
def test_dead_rows_unequal_lanes_and_windows(recency):
    replay = make_replay(4, 30, n_steps=2, stack=2, sampler=RecentSampler(4, recency))
    play(replay, 0, 4, 7, 1, 3, 9, 20)  # wrapped
    play(replay, 1, 3, 5, end=False)
    play(replay, 2, 1, 1, 1)  # the last lane is empty
    assert_distributed(replay, recency)


@pytest.mark.parametrize("recency", slow_but(RECENCIES, 1))
def test_rare_valid_rows_have_the_same_distribution(recency):
    sampler = RecentSampler(5, recency)
    replay = make_replay(2, 1000, sampler=sampler)
    play(replay, 0, 2)
    play(replay, 1, 5)
    for _ in range(900):
        replay.start([0, 1], np.zeros(2))  # each closes the last: rows, but no transition
    play(replay, 1, 4)
    assert len(recent_probabilities(replay, recency)) == 11
    twin = Xoshiro(sampler.rng)
    assert_distributed(replay, recency, 3_000)
    # At most 64 misses of two numbers each, and one number for the fallback.
    numbers = 0
    while twin.s != sampler.rng.tolist():
        twin.next()
        numbers += 1
        assert numbers <= 3_000 * (2 * 64 + 1)


def test_the_newest_row_of_a_full_buffer_is_recency_times_as_likely_as_the_oldest():
    replay = make_replay(rows=1001)
    play(replay, 0, 2000, end=False)
    found = recent_probabilities(replay, 10.0)
    assert max(found.values()) / min(found.values()) == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("rare", [False, True])
def test_a_recency_of_one_draws_the_rows_of_a_uniform_sampler(rare):
    indices = []
    for sampler in (RecentSampler(7, 1.0), UniformSampler(7)):
        replay = make_replay(3, 400, n_steps=3, sampler=sampler)
        play(replay, 0, 4, 7, 1)
        play(replay, 2, 30, end=False)
        for _ in range(395 if rare else 0):
            replay.start([0, 1, 2], np.zeros(3))
        indices.append(drawn(replay, 500))
    assert indices[0] == indices[1]


def test_the_largest_recency_draws_the_newest_rows_and_finds_old_ones():
    replay = make_replay(rows=1000, sampler=RecentSampler(1, 1.7e308))
    play(replay, 0, 5)
    assert set(drawn(replay, 100)) <= set(range(5))
    for _ in range(990):
        replay.start([0], np.zeros(1))
    assert set(drawn(replay, 1_000)) == set(range(5))  # almost the oldest, and the only valid ones
    play(replay, 0, 500, end=False)
    assert min(drawn(replay, 1_000)) > 1_450


def test_sampling_without_a_valid_row_is_an_error():
    replay = make_replay(n_steps=3)
    with pytest.raises(RuntimeError, match="none of 0 rows has a complete 3-step window"):
        drawn(replay, 2)
    play(replay, 0, 2, end=False)
    with pytest.raises(RuntimeError, match="none of 3 rows has a complete 3-step window"):
        drawn(replay, 2)


def test_a_state_continues_the_draws():
    replay = make_replay(rows=64)
    play(replay, 0, 50, end=False)
    drawn(replay, 10)
    state = replay.sampler.state()
    following = drawn(replay, 20)
    assert drawn(replay, 20) != following
    replay.sampler.load_state(state, replay.ring, 1)
    assert drawn(replay, 20) == following
    assert not replay.sampler.wants_priorities
    assert replay.sampler.nbytes == 0


@pytest.mark.parametrize("recency", [0.99, 0.0, -1.0, math.inf, math.nan])
def test_a_recency_below_one_or_infinite_is_rejected(recency):
    with pytest.raises(ValueError, match=f"recency is {recency}, must be at least 1"):
        RecentSampler(0, recency)
