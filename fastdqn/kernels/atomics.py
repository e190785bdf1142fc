"""Atomics: what two threads inside kernels tell each other, in arrays that both hold.

Numba has none on the CPU; these are LLVM's instructions, and semaphores of the C library. What was
written before a store_release() is seen by who finds its value with load_acquire(), where
finish_copies() stands between if it was written by copy_apart().
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # a kernel calls it without the context

_WORD = ir.IntType(64)
_ALIGN = 8
_C_INT, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(ir.FloatType(), 16)
_IS_X86 = platform.machine() in ("x86_64", "AMD64")
# A hint of the processor's that a loop waits: it saves power, and leaves the loop at less cost.
_PAUSE: tuple[str, tuple[int, ...]] | None = None
if _IS_X86:
    _PAUSE = ("llvm.x86.sse2.pause", ())
elif platform.machine() in ("aarch64", "arm64"):
    _PAUSE = ("llvm.aarch64.hint", (1,))


@_intrinsic
def load_acquire(context, words, place):
    """words[place]."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        return builder.load_atomic(where, "acquire", _ALIGN)

    return types.int64(words, place), generate


@_intrinsic
def store_release(context, words, place, value):
    """words[place] = value."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        builder.store_atomic(args[2], where, "release", _ALIGN)
        return context.get_dummy_value()

    return types.void(words, place, types.int64), generate


@_intrinsic
def compare_exchange(context, words, place, expected, value):
    """Whether words[place] was as expected, and is value now: one thread alone hears so."""

    def generate(context, builder, signature, args):
        where = _pointer(context, builder, signature, args)
        pair = builder.cmpxchg(where, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(words, place, types.int64, types.int64), generate


@_intrinsic
def pause(context):
    """Nothing, for the some 50 to 150 cycles that the processor takes for it."""

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
    """to[first : first + 16] = source[first : first + 16] float32, past all caches.

    to must begin on a cache line, and first be a multiple of 16. A usual store to a line that
    another core has read waits until that core has given it up, one line after the other: some
    70 ns each, where these take 2.
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
    """What copy_apart() wrote comes before the next store_release(), as other stores do anyway."""

    def generate(context, builder, signature, args):
        if _IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.sfence"), []
            )
        return context.get_dummy_value()

    return types.void(), generate


def _of_semaphore(name, *more):
    """An intrinsic that calls a function of POSIX's on the 32 bytes from words[place] on."""

    @_intrinsic
    def call(context, words, place):
        def generate(context, builder, signature, args):
            where = builder.bitcast(_pointer(context, builder, signature, args), _BYTES)
            kind = ir.FunctionType(_C_INT, [_BYTES, *(_C_INT for _ in more)])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [where, *(_C_INT(each) for each in more)])

        return types.int32(words, place), generate

    return call


# All give 0. make: one that nobody has posted; wait may come back early, for a signal.
make_semaphore: Any = _of_semaphore("sem_init", 0, 0)
post_semaphore: Any = _of_semaphore("sem_post")
wait_semaphore: Any = _of_semaphore("sem_wait")


def _pointer(context, builder, signature, args):
    place = context.cast(builder, args[1], signature.args[1], types.int64)
    data = _data(context, builder, signature, args, 0)
    return builder.gep(builder.bitcast(data, _WORD.as_pointer()), [place])


def _data(context, builder, signature, args, i):
    return context.make_array(signature.args[i])(context, builder, args[i]).data
