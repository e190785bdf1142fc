"""Vector: LANES float32 numbers in registers, a type of values inside kernels.

LLVM's vectorizer gives up on short loops and on reductions over rows. With this type, a kernel says
what is a vector: load() one, compute with it as with a float32, and store() it. Arithmetic,
comparisons and the functions below take vectors and float32 numbers, also mixed. They have no
branch. Each lane has the bits that the same operations on float32 numbers give.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import templates
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from fastdqn.kernels.matmul import LANES

_intrinsic: Any = intrinsic  # a kernel calls it without the context argument
_FLOAT, _INT, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(1)


class Vector(types.Type):
    """Numba's type of LANES float32 numbers."""

    def __init__(self):
        super().__init__(name=f"float32 x {LANES}")


class Condition(types.Type):
    """Numba's type of the LANES results of a comparison."""

    def __init__(self):
        super().__init__(name=f"boolean x {LANES}")


VECTOR, CONDITION = Vector(), Condition()


def _model_of(element: ir.Type) -> type:
    class Model(models.PrimitiveModel):
        def __init__(self, manager, kind):
            super().__init__(manager, kind, ir.VectorType(element, LANES))

    return Model


register_model(Vector)(_model_of(_FLOAT))
register_model(Condition)(_model_of(_BIT))


@lower_cast(types.Number, Vector)
def _copy_to_lanes(context, builder, source, target, number):
    """Copies a number to all lanes."""
    number = context.cast(builder, number, source, types.float32)
    undefined = ir.Constant(ir.VectorType(_FLOAT, LANES), ir.Undefined)
    vector = builder.insert_element(undefined, number, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(vector, undefined, zeros)


def _compare(sign, builder, a, b):
    return builder.fcmp_ordered(sign, a, b)  # false for NaN


def _define(function: Callable[..., Any], result: types.Type, count: int, emit) -> None:
    """Adds a Python operator of count arguments, some of them vectors."""

    class Typing(templates.AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == count and VECTOR in args:
                return templates.signature(result, *[VECTOR] * count)
            return None

    register: Any = templates.infer_global
    register(function)(Typing)
    lower_builtin(function, *[Vector] * count)(
        lambda context, builder, signature, args: emit(builder, *args)
    )


for _operators, _emit in (
    ((operator.add, operator.iadd), ir.IRBuilder.fadd),
    ((operator.sub, operator.isub), ir.IRBuilder.fsub),
    ((operator.mul, operator.imul), ir.IRBuilder.fmul),
    ((operator.truediv, operator.itruediv), ir.IRBuilder.fdiv),
):
    for _operator in _operators:
        _define(_operator, VECTOR, 2, _emit)
_define(operator.neg, VECTOR, 1, ir.IRBuilder.fneg)
for _operator, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="),
    (operator.eq, "=="),
):  # fmt: skip
    _define(_operator, CONDITION, 2, partial(_compare, _sign))


@_intrinsic
def load(context, array, index):
    """Returns the vector of array[index : index + LANES]; the array is flat and contiguous."""

    def generate(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature, args), align=4)

    return VECTOR(array, types.intp), generate


@_intrinsic
def store(context, array, index, vector):
    """Writes a vector to array[index : index + LANES]."""

    def generate(context, builder, signature, args):
        builder.store(args[2], _pointer(context, builder, signature, args), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


def _pointer(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    pointer = builder.gep(array.data, [args[1]])
    return builder.bitcast(pointer, ir.VectorType(_FLOAT, LANES).as_pointer())


@_intrinsic
def splat(context, number):
    """Returns a vector with a number in all lanes."""
    return VECTOR(VECTOR), lambda context, builder, signature, args: args[0]


@_intrinsic
def multiply_add(context, a, b, c):
    """Returns a * b + c, rounded once if the processor has an instruction for it."""
    return _of_floats([a, b, c], lambda builder, *args: _call(builder, "fmuladd", *args))


@_intrinsic
def floor(context, a):
    return _of_floats([a], lambda builder, *args: _call(builder, "floor", *args))


@_intrinsic
def magnitude(context, a):
    """Returns |a|."""
    return _of_floats([a], lambda builder, *args: _call(builder, "fabs", *args))


@_intrinsic
def sum_of_lanes(context, a):
    """Returns the sum of all lanes, a float32, added in pairs."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(_FLOAT, [_FLOAT, ir.VectorType(_FLOAT, LANES)])
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(_FLOAT, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(VECTOR), generate


@_intrinsic
def select(context, condition, yes, no):
    """Returns yes where the condition holds, else no; both are computed."""
    kind = VECTOR if condition == CONDITION else types.float32

    def generate(context, builder, signature, args):
        return builder.select(*args)

    return kind(condition, kind, kind), generate


@_intrinsic
def add_exponent(context, a, n):
    """Returns a * 2^n for an integer in the lowest 9 bits of the float32 n; a is not checked."""

    def emit(builder, a, n):
        steps = builder.shl(_bits(builder, n), _whole(n, 23))
        return builder.bitcast(builder.add(_bits(builder, a), steps), a.type)

    return _of_floats([a, n], emit)


@_intrinsic
def negate_if_odd(context, a, n):
    """Returns -a where the lowest bit of the float32 n is set, else a."""

    def emit(builder, a, n):
        sign = builder.shl(_bits(builder, n), _whole(n, 31))
        return builder.bitcast(builder.xor(_bits(builder, a), sign), a.type)

    return _of_floats([a, n], emit)


# The bits of sqrt(1/2).
_SPLIT = 0x3F3504F3


@_intrinsic
def exponent(context, a):
    """Returns n as a float32 for a = m 2^n > 0, sqrt(1/2) <= m < sqrt(2)."""

    def emit(builder, a):
        return builder.sitofp(_exponent_of(builder, a), a.type)

    return _of_floats([a], emit)


@_intrinsic
def mantissa(context, a):
    """Returns m for a = m 2^n > 0, sqrt(1/2) <= m < sqrt(2)."""

    def emit(builder, a):
        steps = builder.shl(_exponent_of(builder, a), _whole(a, 23))
        return builder.bitcast(builder.sub(_bits(builder, a), steps), a.type)

    return _of_floats([a], emit)


def _of_floats(arguments, emit):
    """Returns the signature and the code of a function of vectors, or of float32 numbers."""
    kind = VECTOR if VECTOR in arguments else types.float32

    def generate(context, builder, signature, args):
        return emit(builder, *args)

    return kind(*[kind] * len(arguments)), generate


def _call(builder, name, *args):
    """Calls an intrinsic of LLVM."""
    kind = args[0].type
    suffix = f"v{LANES}f32" if isinstance(kind, ir.VectorType) else "f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args)


def _bits(builder, a):
    return builder.bitcast(a, _whole(a, 0).type)


def _whole(a, number):
    """Returns a constant int32, or one in each lane."""
    if isinstance(a.type, ir.VectorType):
        return ir.Constant(ir.VectorType(_INT, LANES), [number] * LANES)
    return _INT(number)


def _exponent_of(builder, a):
    return builder.ashr(builder.sub(_bits(builder, a), _whole(a, _SPLIT)), _whole(a, 23))
