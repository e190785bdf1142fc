"""Atomic operations and semaphores for threads that share arrays inside kernels.

Numba has none on the CPU, so these are LLVM instructions and semaphores of the C library. Data
written before a store_release() is visible to a thread that reads the stored value by
load_acquire(). Data written by copy_apart() needs finish_copies() in between.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # a kernel calls it without the context argument

_WORD = ir.IntType(64)
_ALIGN = 8
_C_INT, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(ir.FloatType(), 16)
_IS_X86 = platform.machine() in ("x86_64", "AMD64")
# A processor hint for spin loops, which saves power and makes leaving the loop cheaper.
_PAUSE: tuple[str, tuple[int, ...]] | None = None
if _IS_X86:
    _PAUSE = ("llvm.x86.sse2.pause", ())
elif platform.machine() in ("aarch64", "arm64"):
    _PAUSE = ("llvm.aarch64.hint", (1,))


@_intrinsic
def load_acquire(context, words, place):
    """Returns words[place]."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        return builder.load_atomic(where, "acquire", _ALIGN)

    return types.int64(words, place), generate


@_intrinsic
def store_release(context, words, place, value):
    """Sets words[place] = value."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        builder.store_atomic(args[2], where, "release", _ALIGN)
        return context.get_dummy_value()

    return types.void(words, place, types.int64), generate


@_intrinsic
def compare_exchange(context, words, place, expected, value):
    """Sets words[place] from expected to value; returns True to one thread only."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        pair = builder.cmpxchg(where, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(words, place, types.int64, types.int64), generate


@_intrinsic
def pause(context):
    """Pauses for about 50 to 150 cycles."""

    def generate(context, builder, signature, args):
        if _PAUSE is not None:
            name, hints = _PAUSE
            kind = ir.FunctionType(ir.VoidType(), [_C_INT] * len(hints))
            hint = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(hint, [_C_INT(each) for each in hints])
        return context.get_dummy_value()

    return types.void(), generate


@_intrinsic
def copy_apart(context, to, source, first):
    """Copies 16 float32, to[first : first + 16] = source[first : first + 16], past all caches.

    `to` must start on a cache line, and first must be a multiple of 16. An ordinary store to a line
    that another core has read waits until that core gives it up. That takes about 70 ns for each
    line; this takes 2.
    """

    def generate(context, builder, signature, args):
        target, origin = (
            builder.bitcast(builder.gep(_data(context, builder, signature, args, i), [args[2]]),
                            _VECTOR.as_pointer())
            for i in (0, 1)
        )  # fmt: skip
        stored = builder.store(builder.load(origin, align=4), target, align=64)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_C_INT(1)]))
        return context.get_dummy_value()

    return types.void(to, source, types.int64), generate


@_intrinsic
def finish_copies(context):
    """Makes the writes of copy_apart() visible before the next store_release()."""

    def generate(context, builder, signature, args):
        if _IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.sfence"), []
            )
        return context.get_dummy_value()

    return types.void(), generate


def _of_semaphore(name, *more):
    """Returns an intrinsic that calls a POSIX function on the 32 bytes from words[place] on."""

    @_intrinsic
    def call(context, words, place):
        def generate(context, builder, signature, args):
            where = builder.bitcast(_pointer(context, builder, signature, args), _BYTES)
            kind = ir.FunctionType(_C_INT, [_BYTES, *(_C_INT for _ in more)])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [where, *(_C_INT(each) for each in more)])

        return types.int32(words, place), generate

    return call


# All return 0. make creates an unposted semaphore; wait may return early, for a signal.
make_semaphore: Any = _of_semaphore("sem_init", 0, 0)
post_semaphore: Any = _of_semaphore("sem_post")
wait_semaphore: Any = _of_semaphore("sem_wait")


def _pointer(context, builder, signature, args):
    place = context.cast(builder, args[1], signature.args[1], types.int64)
    data = _data(context, builder, signature, args, 0)
    return builder.gep(builder.bitcast(data, _WORD.as_pointer()), [place])


def _data(context, builder, signature, args, i):
    return context.make_array(signature.args[i])(context, builder, args[i]).data
