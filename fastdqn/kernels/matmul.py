"""Small float32 matrix products in vector instructions, for use inside kernels.

LLVM's vectorizer does not keep a tile of the result in registers, so these are written as LLVM
instructions. All matrices are flat arrays with an offset and strides. The COLUMNS numbers in a row
of the result are contiguous. Each number is one chain of fused multiply-adds in the order of depth,
so its bits depend on nothing else.
"""

import contextlib
import itertools
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # a kernel calls it without the context argument

LANES = 16
# Vectors in a row, and rows, of the largest tile. 32 registers of 64 bytes hold 16 sums and their
# operands. With 16 registers of 32 bytes each sum takes two.
_WIDE = binding.get_host_cpu_features().get("avx512f", False)
_VECTORS, _ROWS = (2, (8, 4, 2, 1)) if _WIDE else (1, (4, 2, 1))
COLUMNS = LANES * _VECTORS

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def _product(begin, finish, *, of_blocks: bool = False):
    """Returns a function c[rows, COLUMNS] = finish(begin + a[rows, depth] @ b[depth, COLUMNS]).

    Args:
        begin: Maps (builder, pointer to c, pointer to the row's bias) to a vector.
        finish: Maps (builder, sum, pointer to c, vector of floor) to the vector stored in c.
        of_blocks: The depth of a is [depth / COLUMNS, COLUMNS], and a_depth is the stride between
            blocks.
    """

    def generate(context, builder, signature, args):
        c, a, b, bias = (
            _pointer(context, builder, signature.args[i], *args[i : i + 2]) for i in (0, 3, 7, 12)
        )
        c_row, a_row, a_depth, b_depth, rows, depth = (args[i] for i in (2, 5, 6, 9, 10, 11))
        floor = _splat(builder, args[14])
        row = cgutils.alloca_once_value(builder, _INT(0))
        for height in _ROWS:
            with _while_fits(builder, row, height, rows) as lines:
                tiles = [
                    builder.gep(c, [builder.add(builder.mul(line, c_row), _INT(LANES * v))])
                    for line, v in itertools.product(lines, range(_VECTORS))
                ]
                biases = [builder.gep(bias, [line]) for line in lines for _ in range(_VECTORS)]
                begun = [begin(builder, *pair) for pair in zip(tiles, biases, strict=True)]
                rows_of_a = [builder.gep(a, [builder.mul(line, a_row)]) for line in lines]
                sums = _sums(builder, begun, rows_of_a, a_depth, b, b_depth, depth, of_blocks)
                for tile, total in zip(tiles, sums, strict=True):
                    _store(builder, finish(builder, total, tile, floor), tile)
        return context.get_dummy_value()

    @_intrinsic
    def multiply(
        context, c, c_first, c_row, a, a_first, a_row, a_depth, b, b_first, b_depth,
        rows, depth, bias, bias_first, floor,
    ):  # fmt: skip
        given = (
            c, c_first, c_row, a, a_first, a_row, a_depth, b, b_first, b_depth,
            rows, depth, bias, bias_first, floor,
        )  # fmt: skip
        return types.void(*given), generate

    return multiply


@contextlib.contextmanager
def _while_fits(builder, row, height, rows):
    """Emits a loop while `height` rows are left; yields their numbers and advances row."""
    head, body, after = (builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    first = builder.load(row)
    beyond = builder.add(first, _INT(height))
    builder.cbranch(builder.icmp_signed("<=", beyond, rows), body, after)
    builder.position_at_end(body)
    yield [builder.add(first, _INT(r)) for r in range(height)]
    builder.store(beyond, row)
    builder.branch(head)
    builder.position_at_end(after)


def _sums(builder, begun, rows_of_a, a_depth, b, b_depth, depth, of_blocks):
    """Emits the loop over depth (at least 1); returns height * _VECTORS vectors, in registers."""
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    entry, loop, after = builder.block, *(builder.append_basic_block() for _ in range(2))
    builder.branch(loop)
    builder.position_at_end(loop)
    k, in_a, in_b = (builder.phi(_INT) for _ in range(3))
    sums = [builder.phi(_VECTOR) for _ in begun]
    start = builder.gep(b, [in_b])
    of_b = [_load(builder, builder.gep(start, [_INT(LANES * v)])) for v in range(_VECTORS)]
    of_a = [_splat(builder, builder.load(builder.gep(line, [in_a]))) for line in rows_of_a]
    then = [
        builder.call(multiply_add, [x, y, total])
        for (x, y), total in zip(itertools.product(of_a, of_b), sums, strict=True)
    ]
    following = builder.add(k, _INT(1))
    zero, next_a, next_b = _INT(0), builder.add(in_a, a_depth), builder.add(in_b, b_depth)
    if of_blocks:
        ends = builder.icmp_signed("==", builder.and_(following, _INT(COLUMNS - 1)), zero)
        to_next = builder.sub(a_depth, _INT(COLUMNS - 1))
        next_a = builder.add(in_a, builder.select(ends, to_next, _INT(1)))
    for phi, first, later in zip(
        (k, in_a, in_b, *sums), (zero, zero, zero, *begun), (following, next_a, next_b, *then),
        strict=True,
    ):  # fmt: skip
        phi.add_incoming(first, entry)
        phi.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return then


def _at_least(builder, total, tile, floor):
    return builder.select(builder.fcmp_ordered("<", total, floor), floor, total)  # NaN stays NaN


def _where_positive(builder, total, tile, floor):
    closed = builder.fcmp_ordered("<=", _load(builder, tile), _ZERO)
    return builder.select(closed, _ZERO, total)


# c = max(bias + a @ b, floor), with one bias for each row.
product_from_bias: Any = _product(
    lambda builder, tile, bias: _splat(builder, builder.load(bias)), _at_least
)
# c = a @ b where c was positive, else 0: the backward pass of a ReLU with output c.
product_through_relu: Any = _product(lambda builder, tile, bias: _ZERO, _where_positive)
# c = a @ b, where the depth of a is divided into blocks: a sum over a batch.
product_of_blocks: Any = _product(
    lambda builder, tile, bias: _ZERO,
    lambda builder, total, tile, floor: total,
    of_blocks=True,
)
# c = a @ b
product: Any = _product(
    lambda builder, tile, bias: _ZERO, lambda builder, total, tile, floor: total
)
# c += a @ b
product_added: Any = _product(
    lambda builder, tile, bias: _load(builder, tile), lambda builder, total, tile, floor: total
)


@_intrinsic
def transpose_tile(context, to, to_first, to_row, source, source_first, source_row):
    """Sets to[j, i] = source[i, j] for LANES rows and columns."""

    def generate(context, builder, signature, args):
        to = _pointer(context, builder, signature.args[0], *args[0:2])
        source = _pointer(context, builder, signature.args[3], *args[3:5])
        lines = [
            _load(builder, builder.gep(source, [builder.mul(args[5], _INT(i))]))
            for i in range(LANES)
        ]
        for span in (1, 2, 4, 8):  # swap the off-diagonal blocks of each square of 2 span
            for i in (i for i in range(LANES) if not i & span):
                a, b = lines[i], lines[i + span]
                low = [j if not j & span else LANES + j - span for j in range(LANES)]
                high = [j + span if not j & span else LANES + j for j in range(LANES)]
                lines[i] = _shuffle(builder, a, b, low)
                lines[i + span] = _shuffle(builder, a, b, high)
        for i, line in enumerate(lines):
            _store(builder, line, builder.gep(to, [builder.mul(args[2], _INT(i))]))
        return context.get_dummy_value()

    return types.void(to, to_first, to_row, source, source_first, source_row), generate


def _pointer(context, builder, kind, array, first):
    return builder.gep(context.make_array(kind)(context, builder, array).data, [first])


def _load(builder, pointer):
    return builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _store(builder, vector, pointer):
    builder.store(vector, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _splat(builder, number):
    vector = builder.insert_element(_UNDEFINED, number, ir.IntType(32)(0))
    return _shuffle(builder, vector, _UNDEFINED, [0] * LANES)


def _shuffle(builder, a, b, order):
    indices = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
    return builder.shuffle_vector(a, b, indices)
