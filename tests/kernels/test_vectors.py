"""Vectors in kernels: operators and functions give the bits of NumPy's float32."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastdqn.kernels import jit
from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vectors import (
    add_exponent,
    exponent,
    floor,
    load,
    magnitude,
    mantissa,
    multiply_add,
    negate_if_odd,
    select,
    splat,
    store,
)

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
SPECIAL = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, 3e38], np.float32)
NUMBERS = np.random.default_rng(0).normal(0.0, 9.0, LANES - len(SPECIAL)).astype(np.float32)
FIRST = np.concatenate([SPECIAL, NUMBERS])
SECOND = np.concatenate([NUMBERS, SPECIAL])


@ieee_kernel
def arithmetic(a, b, out):
    x, y = load(a, 0), load(b, 0)
    store(out, 0, x + y)
    store(out, LANES, x - y)
    store(out, 2 * LANES, x * y)
    store(out, 3 * LANES, x / y)
    store(out, 4 * LANES, -x)
    store(out, 5 * LANES, magnitude(x))
    store(out, 6 * LANES, floor(x))


@ieee_kernel
def in_place(a, b, out):
    x = splat(np.float32(2.0))
    x += load(a, 0)
    x -= load(b, 0)
    x *= 0.5
    x /= 3
    store(out, 0, x)


@ieee_kernel
def comparisons(a, b, out):
    x, y = load(a, 0), load(b, 0)
    store(out, 0, select(x < y, 1, 0))
    store(out, LANES, select(x <= y, 1, 0))
    store(out, 2 * LANES, select(x > y, 1, 0))
    store(out, 3 * LANES, select(x >= y, 1, 0))
    store(out, 4 * LANES, select(x == y, 1, 0))


@ieee_kernel
def parts(a, out):
    x = load(a, 0)
    store(out, 0, exponent(x))
    store(out, LANES, mantissa(x))


@ieee_kernel
def changes(a, n, out):
    x = load(a, 0)
    shifted = load(n, 0) + np.float32(1.5 * 2**23)
    store(out, 0, add_exponent(x, shifted))
    store(out, LANES, negate_if_odd(x, shifted))
    store(out, 2 * LANES, multiply_add(x, 2.0, x))


def results(kernel, count: int, *arrays: np.ndarray) -> np.ndarray:
    out = np.empty((count, LANES), np.float32)
    kernel(*arrays, out.ravel())
    return out


def test_arithmetic():
    with np.errstate(all="ignore"):
        expected = [
            FIRST + SECOND,
            FIRST - SECOND,
            FIRST * SECOND,
            FIRST / SECOND,
            -FIRST,
            abs(FIRST),
            np.floor(FIRST),
        ]
    assert_array_equal(results(arithmetic, 7, FIRST, SECOND), expected)


def test_assignments_and_numbers_in_place_of_vectors():
    with np.errstate(all="ignore"):
        expected = (np.float32(2.0) + FIRST - SECOND) * np.float32(0.5) / np.float32(3.0)
    assert_array_equal(results(in_place, 1, FIRST, SECOND)[0], expected)


@pytest.mark.parametrize("other", [SECOND, FIRST])
def test_comparisons_are_false_for_nan(other):
    one = FIRST.copy()
    expected = [one < other, one <= other, one > other, one >= other, one == other]
    assert_array_equal(results(comparisons, 5, one, other), np.array(expected, np.float32))


def test_exponent_and_mantissa_make_up_the_number():
    a = np.abs(np.resize(NUMBERS, LANES))
    n, m = results(parts, 2, a)
    assert_array_equal(m * 2.0**n, a)
    assert (m >= np.float32(np.sqrt(0.5))).all()
    assert (m < np.sqrt(2.0)).all()


def test_integers_in_the_lowest_bits_change_exponent_and_sign():
    n = np.arange(LANES, dtype=np.float32) - LANES // 2
    a = np.resize(NUMBERS, LANES)
    expected = [np.ldexp(a, n.astype(int)), np.where(n % 2, -a, a), 3 * a]
    assert_array_equal(results(changes, 3, a, n)[:2], expected[:2])
    np.testing.assert_allclose(results(changes, 3, a, n)[2], expected[2], rtol=1e-6)
