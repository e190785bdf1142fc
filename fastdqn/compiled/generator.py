"""LiveGenerator: one NumPy generator that compiled code uses for many environments in turn.

Compiled code copies the state of an environment's generator into it, draws, and copies it back. So
each environment has the numbers of a Generator of its own, without a Python object.
"""

import ctypes
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

WORDS = 5  # uint64 of a state: those of PCG64, and its spare 32 bits
_MASK = (1 << 64) - 1
_ADDRESSES = (
    "state_address", "state", "fnptr_next_uint64", "fnptr_next_uint32", "fnptr_next_double",
)  # fmt: skip
_alive: WeakValueDictionary[int, Any] = WeakValueDictionary()


class LiveGenerator:
    """A generator, the memory of its state, and its addresses for compiled code.

    Attributes:
        rng: The Generator, of the kind that Gymnasium's environments have.
        words: uint64[4], the memory of its state.
        spare: uint64[1], the memory of the unused half of its last 64 bits.
        addresses: 5 integers, for generator_at().
    """

    def __init__(self):
        bits = np.random.PCG64(0)
        self.rng = np.random.Generator(bits)
        interface = bits.ctypes
        start = interface.state_address
        inner = ctypes.c_uint64.from_address(start).value
        self.words = _memory(inner, 4)
        self.spare = _memory(start + 8, 1)
        functions = (interface.next_uint64, interface.next_uint32, interface.next_double)
        pointers = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        self.addresses = (start, interface.state.value, *pointers)
        inside: Any = bits.state["state"]
        expected = [inside[key] >> shift & _MASK for key in ("state", "inc") for shift in (0, 64)]
        if self.words.tolist() != expected:
            raise RuntimeError(f"NumPy {np.__version__} has another memory layout of PCG64")
        _alive[start] = self

    def read(self) -> np.ndarray:
        """Returns the state, uint64[5]."""
        return np.concatenate([self.words, self.spare])

    def write(self, words: np.ndarray) -> None:
        """Loads a state, uint64[5]."""
        self.words[:], self.spare[:] = words[:4], words[4:]


def seeded_words(seed: int | None, live: LiveGenerator) -> np.ndarray:
    """Returns the state uint64[5] of a generator with this seed, as Gymnasium makes it."""
    live.rng.bit_generator.state = np.random.PCG64(np.random.SeedSequence(seed)).state
    return live.read()


def python_generator(words: np.ndarray, live: LiveGenerator) -> np.random.Generator:
    """Returns a generator of its own with a state uint64[5]."""
    live.write(words)
    rng = np.random.Generator(np.random.PCG64(0))
    rng.bit_generator.state = live.rng.bit_generator.state
    return rng


@register_jitable
def copy_words(state, words, spare):
    """Copies the state of a generator, uint64[5], into the memory of a LiveGenerator."""
    for k in range(4):
        words[k] = state[k]
    spare[0] = state[4]


@register_jitable
def copy_words_back(state, words, spare):
    """Copies the memory of a LiveGenerator into the state of a generator, uint64[5]."""
    for k in range(4):
        state[k] = words[k]
    state[4] = spare[0]


def python_generator_at(addresses: tuple[int, ...]) -> np.random.Generator:
    """Returns the generator with these addresses."""
    return _alive[addresses[0]].rng


@intrinsic
def generator_at(typingctx, addresses):
    """Returns the generator with these addresses, a tuple of 5 integers, in compiled code.

    Numba makes the same value of an argument that is a Generator, but takes some 20 us each time.
    """

    def codegen(context, builder, signature, arguments):
        bits = cgutils.create_struct_proxy(types.npy_bitgen)(context, builder)
        for i, name in enumerate(_ADDRESSES):
            setattr(bits, name, builder.extract_value(arguments[0], i))
        bits.bit_generator = bits.state_address.type(0)
        bits.parent = cgutils.get_null_value(bits.parent.type)
        rng = cgutils.create_struct_proxy(types.npy_rng)(context, builder)
        rng.bit_generator = bits._getvalue()
        rng.meminfo = cgutils.get_null_value(rng.meminfo.type)
        rng.parent = cgutils.get_null_value(rng.parent.type)
        return rng._getvalue()

    return types.npy_rng(addresses), codegen


def _memory(address: int, count: int) -> np.ndarray:
    buffer: Any = (ctypes.c_uint64 * count).from_address(address)
    return np.frombuffer(buffer, np.uint64)
