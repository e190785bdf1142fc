"""State of NumPy generators as plain values: the name of the bit generator and its integers."""

from typing import Any

import numpy as np
from numpy.random import MT19937, PCG64, PCG64DXSM, SFC64, Philox

from fastdqn import state_dict
from fastdqn.state_dict import State

_KNOWN: dict[str, Any] = {
    kind.__name__: kind for kind in (PCG64, PCG64DXSM, MT19937, Philox, SFC64)
}
# Largest value of each integer. C code uses pos and buffer_pos as unchecked array indices, so a
# larger one would read outside of the array.
_MOST = {
    "state": (1 << 128) - 1, "inc": (1 << 128) - 1, "has_uint32": 1, "uinteger": (1 << 32) - 1,
    "pos": 624, "buffer_pos": 4,
}  # fmt: skip


def read_generator(generator: np.random.Generator) -> State:
    """Returns the state of a generator as plain values, with integers of up to 128 bits.

    Raises:
        ValueError: Its bit generator is not one of NumPy's.
    """
    bits = generator.bit_generator
    name = type(bits).__name__
    if _KNOWN.get(name) is not type(bits):
        raise ValueError(f"the bit generator {name} is not one of {', '.join(_KNOWN)}")
    return state_dict.copy_plain(dict(bits.state), name)


def make_generator(state: Any, where: str = "generator") -> np.random.Generator:
    """Returns a new generator that continues from a state.

    Raises:
        ValueError: A field is invalid; the message names it.
    """
    if not isinstance(state, dict) or "bit_generator" not in state:
        raise ValueError(f"{where}.bit_generator is missing")
    name = state_dict.word(state["bit_generator"], tuple(_KNOWN), f"{where}.bit_generator")
    bits = _KNOWN[name](0)
    bits.state = _like(state, bits.state, where)
    return np.random.Generator(bits)


def _like(given: Any, model: Any, where: str) -> Any:
    """Copies given after checking that it has the structure of a generator state, model."""
    if isinstance(model, dict):
        state_dict.fields(given, set(model), where)
        return {key: _like(given[key], inner, f"{where}.{key}") for key, inner in model.items()}
    if isinstance(model, np.ndarray):
        return state_dict.array(given, model.shape, model.dtype, where)
    if isinstance(model, str):
        return state_dict.word(given, (model,), where)
    return state_dict.integer(given, 0, _MOST[where.rpartition(".")[2]], where)
