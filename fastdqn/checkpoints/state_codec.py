"""State codec: converts the state of a run to JSON and a dict of arrays, and back.

An array is encoded as {"array": name, "dtype": ..., "shape": ...}, and a float that is not finite
as {"float": "nan"}. A dict that has one of these keys is wrapped as {"dict": {...}}.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdqn.checkpoints.format import DTYPES, MAX_ARRAY_BYTES, ArraySpec, damaged
from fastdqn.state_dict import MAX_DEPTH, MAX_DIMENSIONS, MAX_INT_BITS, State
from fastdqn.text import brief

_MARKS = frozenset({"array", "float", "dict"})
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_Take = Callable[[str, ArraySpec, str], Any]


def encode(state: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Encodes a state as (JSON value, arrays by name). The arrays are copies, see own().

    Raises:
        ValueError: A value cannot be stored. The message names its key.
    """
    if type(state) is not dict:
        raise ValueError(f"the state is a {type(state).__name__}, not a dict")
    arrays: dict[str, np.ndarray] = {}
    return _encode(state, "state", arrays, 0), arrays


def array_specs(encoded: Any, file: object) -> dict[str, ArraySpec]:
    """Validates an encoded state and returns the specs of its arrays. Raises CheckpointError."""
    specs: dict[str, ArraySpec] = {}

    def note(name: str, spec: ArraySpec, where: str) -> None:
        if name in specs:
            raise damaged(file, where, f"array {name} is used twice")
        specs[name] = spec

    if type(encoded) is not dict:
        raise damaged(file, "state", f"is {brief(encoded)}, not an object")
    _decode(encoded, "state", 0, file, note)
    return specs


def decode(encoded: dict[str, Any], arrays: dict[str, np.ndarray], file: object) -> State:
    """Decodes a state that array_specs() has validated."""
    return _decode(encoded, "state", 0, file, lambda name, spec, where: arrays[name])


def read_spec(entry: dict[str, Any], file: object, where: str) -> ArraySpec:
    """Returns dtype and shape of a JSON object. Raises CheckpointError if they are not valid."""
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged(file, where, f"dtype {brief(dtype)} is not supported")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise damaged(
            file, where, f"shape {brief(shape)} is not a list of at most {MAX_DIMENSIONS} sizes"
        )
    if not all(type(size) is int and 0 <= size <= MAX_ARRAY_BYTES for size in shape):
        raise damaged(file, where, f"shape {brief(shape)} has sizes out of range")
    # Zeros count as 1: NumPy multiplies the other sizes, which may overflow.
    if math.prod(size or 1 for size in shape) * DTYPES[dtype].itemsize > MAX_ARRAY_BYTES:
        raise damaged(file, where, f"shape {brief(shape)} is too large for {dtype}")
    return ArraySpec(dtype, tuple(shape))


def spec_of(array: np.ndarray) -> ArraySpec:
    return ArraySpec(array.dtype.name, array.shape)


def own(array: np.ndarray, where: str) -> np.ndarray:
    """Returns a C-contiguous array in native byte order that nothing else writes to.

    It is a copy, unless array is read-only and owns its memory.

    Raises:
        ValueError: The dtype cannot be stored. The message names where.
    """
    native = array.dtype.newbyteorder("=")
    if native.name not in DTYPES:
        raise ValueError(f"{where} is an array of {array.dtype}: only numeric dtypes can be stored")
    flags = array.flags
    if (
        type(array) is np.ndarray
        and flags.owndata
        and flags.c_contiguous
        and not flags.writeable
        and array.dtype.isnative
    ):
        return array
    return np.array(array, native, order="C", copy=True)


def _encode(value: Any, where: str, arrays: dict[str, np.ndarray], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, np.ndarray):
        name = f"{len(arrays):06d}"
        arrays[name] = own(value, where)
        return {"array": name, **spec_of(arrays[name]).to_json()}
    if type(value) is list:
        for i, item in enumerate(value):
            if isinstance(item, dict | np.ndarray):
                raise ValueError(
                    f"{where}[{i}] is a {type(item).__name__}, which is not allowed in a list"
                )
        return [_encode(item, f"{where}[{i}]", arrays, depth + 1) for i, item in enumerate(value)]
    if type(value) is not dict:
        return _encode_number(value, where)
    for key in value:
        if type(key) is not str:
            raise ValueError(f"{where} has the key {key!r}: keys must be strings")
    items = {key: _encode(item, f"{where}.{key}", arrays, depth + 1) for key, item in value.items()}
    return {"dict": items} if _MARKS & items.keys() else items


def _encode_number(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        if value.bit_length() > MAX_INT_BITS:
            raise ValueError(
                f"{where} has {value.bit_length()} bits, above the limit of {MAX_INT_BITS}"
            )
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    raise ValueError(
        f"{where} is a {type(value).__name__}: a state may contain Python numbers, strings, "
        "None, lists of those, arrays and dicts"
    )


def _decode(value: Any, where: str, depth: int, file: object, take: _Take) -> Any:
    if depth > 2 * MAX_DEPTH + 2:  # a wrapped dict counts twice
        raise damaged(file, where[:200], "is nested too deep")
    if isinstance(value, list):
        if any(isinstance(item, dict) and item.keys() != {"float"} for item in value):
            raise damaged(file, where, "is a list that contains an object")
        return [
            _decode(item, f"{where}[{i}]", depth + 1, file, take) for i, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return _checked_number(value, where, file)
    if not _MARKS & value.keys():
        return _items(value, where, depth, file, take)
    if value.keys() == {"array", "dtype", "shape"} and isinstance(value["array"], str):
        return take(value["array"], read_spec(value, file, where), where)
    if value.keys() == {"float"} and value["float"] in list(_NOT_FINITE):
        return _NOT_FINITE[value["float"]]
    if value.keys() == {"dict"} and isinstance(value["dict"], dict):
        return _items(value["dict"], where, depth, file, take)
    raise damaged(file, where, f"{brief(value)} is not valid in a state")


def _items(value: dict, where: str, depth: int, file: object, take: _Take) -> State:
    return {
        key: _decode(item, f"{where}.{key}", depth + 1, file, take) for key, item in value.items()
    }


def _checked_number(value: Any, where: str, file: object) -> Any:
    if type(value) is int and value.bit_length() > MAX_INT_BITS:
        raise damaged(file, where, f"has more than {MAX_INT_BITS} bits")
    if type(value) is float and not math.isfinite(value):
        raise damaged(file, where, "is out of the range of a float")
    return value
