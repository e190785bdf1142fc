"""State dicts: the values that a saved state may hold, and validation when one is loaded."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

# Maps names to numbers, strings, None, lists of those, arrays, or nested state dicts.
State = dict[str, Any]


class Rows(NamedTuple):
    """A copy of replay rows, lane after lane, as they are saved.

    Attributes:
        first, last: int64[N], the range of row numbers of each lane, without last.
        columns: Arrays [R, *] by name, R = sum(last - first).
    """

    first: np.ndarray
    last: np.ndarray
    columns: dict[str, np.ndarray]


class RowLayout(NamedTuple):
    """The form that rows must have to be loaded into a replay.

    Attributes:
        lanes: Number of lanes.
        rows: Maximum rows per lane.
        columns: Dtype and shape of a row, by name of the column.
    """

    lanes: int
    rows: int
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]]


class StateError(ValueError):
    """A state does not fit the object that loads it. The message names the field."""


# Limits of a checkpoint, far above what a run needs.
MAX_INT_BITS = 128  # a PCG64 generator has 128
MAX_DEPTH = 32
MAX_DIMENSIONS = 32
_MAX_SECONDS = 1e11  # three thousand years
# A state of the user's is nested inside the state of the run.
_MAX_OWN_DEPTH = MAX_DEPTH - 12

# NumPy scalars that convert to Python's numbers and back without loss.
_NUMBERS = {bool: bool, np.bool_: bool, int: int, np.int64: int, float: float, np.float64: float}
_WORDS = {str, np.str_}


def copy_plain(value: Any, where: str, depth: int = 0) -> Any:
    """Returns a deep copy of a state, with NumPy scalars as Python numbers.

    Raises:
        StateError: A value has an unsupported type or exceeds the limits of a checkpoint.
    """
    if depth > _MAX_OWN_DEPTH:
        raise StateError(f"{where[:60]} is nested more than {_MAX_OWN_DEPTH} deep")
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise StateError(f"{where} has a key that is not a string")
        return {key: copy_plain(inner, f"{where}.{key}", depth + 1) for key, inner in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        if value.ndim > MAX_DIMENSIONS:
            raise StateError(f"{where} has {value.ndim} dimensions: {MAX_DIMENSIONS} at most")
        return np.array(value)
    return _copy_number(value, where, depth)


def _copy_number(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_OWN_DEPTH:
        raise StateError(f"{where[:60]} is nested more than {_MAX_OWN_DEPTH} deep")
    if type(value) is list:
        return [_copy_number(inner, f"{where}[{i}]", depth + 1) for i, inner in enumerate(value)]
    if value is None or type(value) in _WORDS:
        return value if value is None else str(value)
    if type(value) not in _NUMBERS:
        raise StateError(
            f"{where} is of type {type(value).__name__}: bool, int, float, str, None, lists of "
            "those, arrays of numbers and dicts are supported"
        )
    number = _NUMBERS[type(value)](value)
    if type(number) is int and number.bit_length() > MAX_INT_BITS:
        raise StateError(f"{where} has {number.bit_length()} bits: {MAX_INT_BITS} at most")
    return number


def text_bytes(value: Any) -> int:
    """Returns an upper estimate of the JSON size of a state in bytes, without arrays."""
    if isinstance(value, dict):
        return sum(text_bytes(key) + text_bytes(inner) + 4 for key, inner in value.items())
    if isinstance(value, list):
        return sum(text_bytes(inner) + 2 for inner in value)
    if isinstance(value, str):
        return len(value) if value.isascii() and value.isprintable() else 12 * len(value)
    return 80 if isinstance(value, np.ndarray) else 40


def fields(value: Any, names: set[str], where: str) -> State:
    """Returns value if it is a dict with exactly these keys. Raises StateError."""
    if not isinstance(value, dict):
        raise StateError(f"{where} is of type {type(value).__name__}: a dict expected")
    for name in sorted(names - value.keys()):
        raise StateError(f"{where}.{name} is missing")
    for name in value.keys() - names:
        raise StateError(f"{where}.{name} is not known here")
    return value


def array(value: Any, shape: tuple[int, ...], dtype: DTypeLike, where: str) -> np.ndarray:
    """Returns a copy of an array of this shape and dtype. Raises StateError for anything else."""
    if not isinstance(value, np.ndarray):
        raise StateError(f"{where} is of type {type(value).__name__}: an array expected")
    if value.dtype != dtype:
        raise StateError(f"{where} has dtype {value.dtype}: {np.dtype(dtype)} expected")
    if value.shape != shape:
        raise StateError(f"{where} has shape {value.shape}: {shape} expected")
    return np.array(value)


def integer(value: Any, least: int, most: int | None, where: str) -> int:
    """Returns value if it is an int in [least, most]. Raises StateError."""
    if type(value) is not int:
        raise StateError(f"{where} is of type {type(value).__name__}: an int expected")
    if value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"{least} to {most}"
        raise StateError(f"{where} is {value}: {span} expected")
    return value


def number(value: Any, where: str) -> float:
    """Returns value if it is a finite float. Raises StateError."""
    if type(value) is not float or not np.isfinite(value):
        raise StateError(f"{where} is {value!r:.40}: a finite float expected")
    return value


def truth(value: Any, where: str) -> bool:
    """Returns value if it is a bool. Raises StateError."""
    if type(value) is not bool:
        raise StateError(f"{where} is of type {type(value).__name__}: a bool expected")
    return value


def word(value: Any, known: tuple[str, ...], where: str) -> str:
    """Returns value if it is one of the known strings. Raises StateError."""
    if type(value) is not str or value not in known:
        raise StateError(f"{where} is {value!r:.60}: {' or '.join(map(repr, known))} expected")
    return value


def take(state: State, name: str) -> Any:
    """Returns a field. Raises StateError if it is missing."""
    if name not in state:
        raise StateError(f"{name} is missing")
    return state[name]


def take_array(state: State, name: str, like: np.ndarray) -> np.ndarray:
    """Returns a copy of an array field with the shape and dtype of like. Raises StateError."""
    return array(take(state, name), like.shape, like.dtype, name)


def take_generator(state: State, name: str, like: np.ndarray) -> np.ndarray:
    """Returns a copy of a generator state of kernels.rng. Raises StateError."""
    words = take_array(state, name, like)
    if not words.any():
        raise StateError(f"{name} is all zeros: the generator would only return zeros")
    return words


def take_count(state: State, name: str) -> int:
    """Returns a field that must be a nonnegative int. Raises StateError."""
    return integer(take(state, name), 0, 1 << 62, name)


def take_number(state: State, name: str) -> float:
    """Returns a field that must be a finite number. Raises StateError."""
    value = take(state, name)
    return float(value) if type(value) is int else number(value, name)


def take_seconds(state: State, name: str) -> float:
    """Returns a field that must be a plausible duration in seconds. Raises StateError."""
    seconds = take_number(state, name)
    if not 0.0 <= seconds < _MAX_SECONDS:
        raise StateError(f"{name} is {seconds:g} seconds: 0 to 1e11 expected")
    return seconds


def take_truth(state: State, name: str) -> bool:
    """Returns a field that must be a bool. Raises StateError."""
    return truth(take(state, name), name)


def take_list(state: State, name: str) -> list:
    """Returns a field that must be a list. Raises StateError."""
    value = take(state, name)
    if type(value) is not list:
        raise StateError(f"{name} is of type {type(value).__name__}: a list expected")
    return value


def take_state(state: State, name: str) -> State:
    """Returns a field that must be a state dict. Raises StateError."""
    value = take(state, name)
    if not isinstance(value, dict):
        raise StateError(f"{name} is {value!r:.80}: a dict expected")
    return value
