"""Float32 functions in vector instructions, and softmax over a block, against float64."""

import os
import platform
import re

import numba
import numpy as np
import pytest
import torch
from llvmlite import binding
from numpy.testing import assert_array_equal
from scipy import special

from fastdqn.kernels import jit
from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vector_math import (
    BLOCK,
    cos32,
    erf32,
    exp32,
    log32,
    log_softmax_block,
    softmax_block,
)
from fastdqn.kernels.vectors import load, store

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")


@ieee_kernel
def exp_of(x, y):
    for i in range(len(x)):
        y[i] = exp32(x[i])


@ieee_kernel
def log_of(x, y):
    for i in range(len(x)):
        y[i] = log32(x[i])


@ieee_kernel
def cos_of(x, y):
    for i in range(len(x)):
        y[i] = cos32(x[i])


@ieee_kernel
def erf_of(x, y):
    for i in range(len(x)):
        y[i] = erf32(x[i])


@ieee_kernel
def all_of_vector(x, y):
    """Writes the four functions of one vector to y [4 * LANES]."""
    number = load(x, 0)
    store(y, 0, exp32(number))
    store(y, LANES, log32(number))
    store(y, 2 * LANES, cos32(number))
    store(y, 3 * LANES, erf32(number))


LOOPS = {"exp": exp_of, "log": log_of, "cos": cos_of, "erf": erf_of}
EXACT = {"exp": np.exp, "log": np.log, "cos": np.cos, "erf": special.erf}
# The ranges, and the errors that the docstrings state.
RANGES = {
    "exp": (-87.33654, 88.72283, 1.02), "log": (1e-45, 3.4028235e38, 1.16),
    "cos": (-1000.0, 1000.0, 2.38), "erf": (-5.0, 5.0, 1.42),
}  # fmt: skip


def applied(name: str, x) -> np.ndarray:
    x = np.array(x, np.float32)
    y = np.empty_like(x)
    LOOPS[name](x, y)
    return y


def numbers_between(low: float, high: float, count: int = 50_000) -> np.ndarray:
    """Float32 numbers of all magnitudes, and evenly spread ones."""
    rng = np.random.default_rng(0)
    most = np.float32(max(abs(low), abs(high))).view(np.int32)
    of_all_sizes = rng.integers(0, most, count, dtype=np.int32, endpoint=True).view(np.float32)
    of_all_sizes *= rng.choice(np.array([-1, 1], np.float32), count)
    x = np.concatenate([of_all_sizes, rng.uniform(low, high, count), [low, high]])
    return x[(low <= x) & (x <= high)].astype(np.float32)


@pytest.mark.parametrize("name", LOOPS)
def test_errors_are_as_stated(name):
    low, high, error = RANGES[name]
    x = numbers_between(low, high)
    assert len(x) > 50_000
    exact = EXACT[name](x.astype(np.float64))
    ulp = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 24, -149))
    worst = np.abs(applied(name, x) - exact) / ulp
    assert worst.max() <= error, x[worst.argmax()]


INF, NAN = np.inf, np.nan
SPECIAL = {
    "exp": [
        (0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (88.73, INF), (1e30, INF),
        (-87.34, 0.0), (-1e30, 0.0),
    ],
    "log": [
        (1.0, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (NAN, NAN), (-1.0, NAN),
        (-1e-45, NAN),
    ],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (1001.0, NAN)],
    "erf": [(0.0, 0.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN), (1e30, 1.0), (-6.0, -1.0)],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name):
    x, expected = zip(*SPECIAL[name], strict=True)
    assert_array_equal(applied(name, x), np.array(expected, np.float32))


def test_cos_is_even_and_erf_is_odd():
    x = numbers_between(0.0, 1000.0)
    assert_array_equal(applied("cos", -x), applied("cos", x))
    assert_array_equal(applied("erf", -x), -applied("erf", x))


@pytest.mark.parametrize("name", LOOPS)
def test_bits_depend_neither_on_place_nor_on_length(name):
    low, high, _ = RANGES[name]
    x = numbers_between(low, high)[:67]
    whole = applied(name, x)
    for begin in range(1, 40):
        assert_array_equal(applied(name, x[begin:]), whole[begin:])
        assert_array_equal(applied(name, x[:begin]), whole[:begin])


def test_vectors_have_the_bits_of_single_numbers():
    x = np.concatenate([numbers_between(-100.0, 100.0)[:2000], [0.0, INF, -INF, NAN]])
    x = np.resize(x.astype(np.float32), len(x) // LANES * LANES)
    y = np.empty(4 * LANES, np.float32)
    for part in x.reshape(-1, LANES):
        all_of_vector(part, y)
        assert_array_equal(y, np.concatenate([applied(name, part) for name in LOOPS]))


@pytest.mark.parametrize("name", LOOPS)
def test_loops_become_vector_instructions_without_a_library(name):
    fresh = numba.njit(error_model="numpy")(LOOPS[name].py_func)  # a cached one has no listing
    fresh.compile((numba.float32[::1], numba.float32[::1]))
    (listing,) = fresh.inspect_asm().values()
    assert not re.findall(r"\b(?:exp|log|cos|erf|fma)f?\b|__svml|_ZGV", listing)
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("no list of this machine's instructions")
    features = binding.get_host_cpu_features()
    wide = features.get("avx2") and features.get("fma") and "NUMBA_CPU_NAME" not in os.environ
    packed = r"\bvfn?m(?:add|sub)\d+ps\b.*%[yz]mm" if wide else r"\bv?mulps\b"
    assert re.findall(packed, listing)


def softmax_twin(x: np.ndarray, logarithm: bool) -> np.ndarray:
    """Returns softmax over the rows of x [rows, BLOCK] in float64, or its logarithm."""
    shifted = x.astype(np.float64) - x.max(0)
    total = np.exp(shifted).sum(0)
    return shifted - np.log(total) if logarithm else np.exp(shifted) / total


SOFTMAXES = [(softmax_block, False, torch.softmax), (log_softmax_block, True, torch.log_softmax)]


@pytest.mark.parametrize(("kernel", "logarithm"), [each[:2] for each in SOFTMAXES])
@pytest.mark.parametrize("rows", [1, 2, 51])
@pytest.mark.parametrize("scale", [0.1, 30.0, 1e6])
def test_softmax_over_strided_rows_equals_float64(kernel, logarithm, rows, scale):
    x = np.random.default_rng(0).normal(0.0, scale, (rows, 3, BLOCK)).astype(np.float32)
    to = np.full((1 + rows, 2, BLOCK), 7.0, np.float32)
    kernel(x.ravel(), BLOCK, 3 * BLOCK, rows, to.ravel(), 3 * BLOCK, 2 * BLOCK)
    expected = softmax_twin(x[:, 1], logarithm)
    np.testing.assert_allclose(to[1:, 1], expected, rtol=1e-6, atol=1e-6)
    assert (to[:, 0] == 7.0).all()
    assert (to[0] == 7.0).all()


@pytest.mark.parametrize("kernel", [each[0] for each in SOFTMAXES])
def test_softmax_in_place_equals_softmax_to_another_place(kernel):
    x = np.random.default_rng(0).normal(0.0, 3.0, 5 * BLOCK).astype(np.float32)
    to = np.empty_like(x)
    kernel(x, 0, BLOCK, 5, to, 0, BLOCK)
    kernel(x, 0, BLOCK, 5, x, 0, BLOCK)
    assert_array_equal(x, to)


@pytest.mark.parametrize(("kernel", "logarithm", "of_torch"), SOFTMAXES)
def test_softmax_of_special_values_is_that_of_torch(kernel, logarithm, of_torch):
    columns = [
        [0.0, NAN, 1.0], [NAN, NAN, NAN], [INF, 0.0, 1.0], [INF, INF, 0.0], [-INF, 0.0, 1.0],
        [-INF, -INF, -INF], [-INF, NAN, 0.0], [0.0, 100.0, -100.0], [3e38, -3e38, 0.0],
        [-INF, INF, NAN], [-3e38, -3e38, -3e38],
    ]  # fmt: skip
    x = np.zeros((3, BLOCK), np.float32)
    x[:, : len(columns)] = np.array(columns, np.float32).T
    expected = of_torch(torch.from_numpy(x.copy()), 0).numpy()
    kernel(x.ravel(), 0, BLOCK, 3, x.ravel(), 0, BLOCK)
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-37)
