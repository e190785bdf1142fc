"""Random numbers of kernels: the published generator, uniform and within bounds."""

import numpy as np
import pytest
from scipy import stats

from fastdqn.kernels.rng import below, derive, seed_state, uniform
from helpers.oracles import Xoshiro


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 + 11])
def test_uniform_is_xoshiro256_plus_plus(seed):
    state = seed_state(seed)
    twin = Xoshiro(state)
    assert [uniform(state) for _ in range(200)] == [twin.uniform() for _ in range(200)]
    assert state.tolist() == twin.s


def test_the_twin_gives_the_published_numbers():
    # First outputs of the authors' C code for the state 1, 2, 3, 4.
    twin = Xoshiro([1, 2, 3, 4])
    assert [twin.next() for _ in range(3)] == [41943041, 58720359, 3588806011781223]


def test_seeding_is_splitmix64():
    # First outputs of the authors' C code for the state 0.
    assert seed_state(0).tolist()[:2] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_uniform_is_flat_in_0_to_1():
    state = seed_state(7)
    draws = np.array([uniform(state) for _ in range(20_000)])
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert stats.kstest(draws, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("bound", [2, 7, 1000])
def test_below_reaches_every_number_under_its_bound_equally(bound):
    state = seed_state(3)
    draws = np.array([below(state, bound) for _ in range(20 * bound)])
    assert draws.min() >= 0
    assert draws.max() < bound
    assert stats.chisquare(np.bincount(draws, minlength=bound)).pvalue > 1e-3


def test_below_stays_under_the_smallest_and_a_huge_bound():
    state = seed_state(5)
    assert {below(state, 1) for _ in range(100)} == {0}
    assert all(0 <= below(state, 2**52) < 2**52 for _ in range(1000))


def test_streams_and_purposes_give_unrelated_states():
    states = {tuple(seed_state(seed, stream)) for seed in range(20) for stream in range(20)}
    assert len(states) == 400
    derived = {derive(0), derive(0, 0), derive(0, 1), derive(0, 0, 1), derive(0, 1, 0)}
    assert len(derived) == 5
    assert all(0 <= seed < 2**63 for seed in derived)
