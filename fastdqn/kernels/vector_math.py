"""exp32, log32, cos32 and erf32: float32 functions that LLVM vectorizes in the loops of a kernel.

They have no branch and call no library, so a loop over a contiguous array becomes vector
instructions. They also take a Vector, which is faster in short loops. A result depends on its
argument only, not on the place in a vector.

The polynomials are our own fits: least squares with Lawson's weights, which approach the smallest
maximum of the relative error. Their lowest coefficients were rounded to float32 first.

Errors are the largest of all float32 arguments with a finite result, in units in the last place
(ulp) of the exact result. Measured with AVX-512 and its fused multiply-add. Speed, next to NumPy
and torch: python benchmarks/bench_kernels.py
"""

import numpy as np

from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import COLUMNS, LANES
from fastdqn.kernels.vectors import (
    add_exponent,
    exponent,
    load,
    magnitude,
    mantissa,
    multiply_add,
    negate_if_odd,
    select,
    splat,
    store,
)

BLOCK = COLUMNS

# A float32 of this size has no fraction: a sum with it rounds to an integer, in its lowest bits.
_ROUNDER = np.float32(1.5 * 2**23)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)

# The upper part has 9 bits, so that its product with an exponent is exact.
_PER_LN2 = np.float32(1.0 / np.log(2.0))
_LN2_UPPER, _LN2_LOWER = np.float32(355 / 512), np.float32(np.log(2.0) - 355 / 512)
# exp(r) = 1 + r + r^2 polynomial(r) for |r| <= ln(2) / 2; relative error 2^-28.2.
_EXP = (0.49999994, 0.16666521, 0.041668266, 0.0083686775, 0.0013820734)
_EXP_0, _EXP_1, _EXP_2, _EXP_3, _EXP_4 = map(np.float32, _EXP)
# Arguments of the smallest normal result and of the largest finite one.
_EXP_LEAST, _EXP_MOST = np.float32(-87.33654), np.float32(88.72283)

# log(1 + f) = f - f^2 / 2 + f^3 polynomial(f) for sqrt(1/2) <= 1 + f < sqrt(2); error 2^-24.9.
_LOG = (0.3333391, -0.25001335, 0.199631, -0.16577654, 0.14914511, -0.14266914, 0.0870036)
_LOG_0, _LOG_1, _LOG_2, _LOG_3, _LOG_4, _LOG_5, _LOG_6 = map(np.float32, _LOG)
_NORMAL_LEAST, _FROM_SUBNORMAL = np.float32(2.0**-126), np.float32(2.0**24)

# pi in three parts. The first two have 14 bits, so that products with 10 bits are exact.
_PI_UPPER, _PI_MIDDLE = np.float32(3.1416015625), np.float32(-8.909031748771667e-06)
_PI_LOWER, _PER_PI = np.float32(1.215420125655342e-10), np.float32(1.0 / np.pi)
# sin(r) = r + r^3 polynomial(r^2) for |r| <= pi / 2; relative error 2^-27.2.
_SIN = (-0.1666666, 0.008333069, -0.00019809774, 2.6060818e-06)
_SIN_0, _SIN_1, _SIN_2, _SIN_3 = map(np.float32, _SIN)
_COS_MOST = np.float32(1000.0)

# erf(t) = t + t polynomial(t^2) for 0 <= t <= 1; relative error 2^-24.6.
_ERF = (0.12837912, -0.3761232, 0.11280113, -0.026709216, 0.004914906, -0.0005619869)
_ERF_0, _ERF_1, _ERF_2, _ERF_3, _ERF_4, _ERF_5 = map(np.float32, _ERF)
# erf(t) = 1 - exp(polynomial(t)) for 1 <= t <= 4; relative error 2^-29.7. Above, it rounds to 1.
_TAIL = (
    -0.00032057462, -1.1271716, -0.6380123, -0.10321806, 0.02188952, -0.0029600642, 0.00018759702,
)  # fmt: skip
_TAIL_0, _TAIL_1, _TAIL_2, _TAIL_3, _TAIL_4, _TAIL_5, _TAIL_6 = map(np.float32, _TAIL)
_ERF_MOST = np.float32(4.0)


@ieee_kernel
def exp32(x):
    """Returns e^x of a float32. Error: at most 1.02 ulp.

    Results below 2^-126 are 0, since subnormal numbers are slow. NaN stays NaN.
    """
    shifted = multiply_add(x, _PER_LN2, _ROUNDER)
    n = shifted - _ROUNDER
    r = multiply_add(n, -_LN2_LOWER, multiply_add(n, -_LN2_UPPER, x))
    p = multiply_add(r, _EXP_4, _EXP_3)
    p = multiply_add(p, r, _EXP_2)
    p = multiply_add(p, r, _EXP_1)
    p = multiply_add(p, r, _EXP_0)
    p = multiply_add(p, r * r, r) + _ONE
    y = select(x >= _EXP_LEAST, add_exponent(p, shifted), _ZERO)
    return select(x <= _EXP_MOST, y, x + _INFINITY)  # NaN + inf is NaN


@ieee_kernel
def log32(x):
    """Returns the natural logarithm of a float32. Error: at most 1.16 ulp.

    log32(0) is -inf, of negative numbers NaN. NaN stays NaN.
    """
    small = x < _NORMAL_LEAST
    normal = select(small, x * _FROM_SUBNORMAL, x)
    n = exponent(normal) - select(small, np.float32(24.0), _ZERO)
    f = mantissa(normal) - _ONE
    square = f * f
    p = multiply_add(f, _LOG_6, _LOG_5)
    p = multiply_add(p, f, _LOG_4)
    p = multiply_add(p, f, _LOG_3)
    p = multiply_add(p, f, _LOG_2)
    p = multiply_add(p, f, _LOG_1)
    p = multiply_add(p, f, _LOG_0)
    p = multiply_add(n, _LN2_LOWER, p * (square * f))
    p = multiply_add(square, -_HALF, p) + f
    y = select(x < _INFINITY, multiply_add(n, _LN2_UPPER, p), _INFINITY)
    return select(x > _ZERO, y, select(x == _ZERO, -_INFINITY, _NAN))


@ieee_kernel
def cos32(x):
    """Returns the cosine of a float32 in [-1000, 1000], NaN beyond. Error: at most 2.38 ulp."""
    x = magnitude(x)
    # cos(x) = (-1)^n sin(r) for x = (n - 1/2) pi + r, |r| <= pi / 2
    shifted = multiply_add(x, _PER_PI, _HALF) + _ROUNDER
    n = (shifted - _ROUNDER) - _HALF
    r = multiply_add(n, -_PI_UPPER, x)
    r = multiply_add(n, -_PI_MIDDLE, r)
    r = multiply_add(n, -_PI_LOWER, r)
    square = r * r
    p = multiply_add(square, _SIN_3, _SIN_2)
    p = multiply_add(p, square, _SIN_1)
    p = multiply_add(p, square, _SIN_0)
    y = multiply_add(p, square * r, r)
    return select(x <= _COS_MOST, negate_if_odd(y, shifted), _NAN)


@ieee_kernel
def erf32(x):
    """Returns the error function of a float32. Error: at most 1.42 ulp. NaN stays NaN."""
    t = magnitude(x)
    square = t * t
    p = multiply_add(square, _ERF_5, _ERF_4)
    p = multiply_add(p, square, _ERF_3)
    p = multiply_add(p, square, _ERF_2)
    p = multiply_add(p, square, _ERF_1)
    p = multiply_add(p, square, _ERF_0)
    near = multiply_add(p, t, t)
    t = select(t > _ERF_MOST, _ERF_MOST, t)
    p = multiply_add(t, _TAIL_6, _TAIL_5)
    p = multiply_add(p, t, _TAIL_4)
    p = multiply_add(p, t, _TAIL_3)
    p = multiply_add(p, t, _TAIL_2)
    p = multiply_add(p, t, _TAIL_1)
    p = multiply_add(p, t, _TAIL_0)
    y = select(t < _ONE, near, _ONE - exp32(p))
    return select(x < _ZERO, -y, y)


@ieee_kernel
def log_softmax_block(x, first, stride, rows, to, to_first, to_stride):
    """Writes the logarithm of a softmax over the rows of a block.

    Args:
        x: float32 array; row r of BLOCK samples begins at first + r * stride.
        first, stride: See x.
        rows: Number of rows.
        to, to_first, to_stride: Like x, the place of the result; it may be the same.
    """
    for s in range(0, BLOCK, LANES):
        most = _most(x, first + s, stride, rows)
        total = splat(_ZERO)
        for r in range(rows):
            total += exp32(load(x, first + s + r * stride) - most)
        logarithm = log32(total)
        for r in range(rows):
            shifted = load(x, first + s + r * stride) - most
            store(to, to_first + s + r * to_stride, shifted - logarithm)


@ieee_kernel
def softmax_block(x, first, stride, rows, to, to_first, to_stride):
    """Writes a softmax over the rows of a block; arguments as in log_softmax_block()."""
    for s in range(0, BLOCK, LANES):
        most = _most(x, first + s, stride, rows)
        total = splat(_ZERO)
        for r in range(rows):
            share = exp32(load(x, first + s + r * stride) - most)
            store(to, to_first + s + r * to_stride, share)
            total += share
        inverse = _ONE / total
        for r in range(rows):
            at = to_first + s + r * to_stride
            store(to, at, load(to, at) * inverse)


@ieee_kernel
def _most(x, first, stride, rows):
    """Returns the largest number in each lane, without NaN."""
    most = splat(-_INFINITY)
    for r in range(rows):
        number = load(x, first + r * stride)
        most = select(number > most, number, most)
    return most
