"""Plain values: what a saved state is made of, and the checks that one read back must pass."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

# Words lead to numbers, strings, None, lists of those, arrays, or further such dicts.
State = dict[str, Any]


class Rows(NamedTuple):
    """A copy of rows, lane after lane, as they are saved.

    first, last [N] int64: the rows of each lane, by their absolute numbers, last not included
    columns  [R, *] by name, R = sum(last - first)
    """

    first: np.ndarray
    last: np.ndarray
    columns: dict[str, np.ndarray]


class RowLayout(NamedTuple):
    """What rows must be to go into a replay.

    lanes, rows  N lanes, of each at most so many rows at once
    columns      by name, dtype and shape of a row
    """

    lanes: int
    rows: int
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]]


class StateError(ValueError):
    """A state does not belong where it is loaded; the message names the field."""


# What a checkpoint can hold, for whoever makes a state and for whoever stores it. Ours, far above
# what a run has.
MAX_INT_BITS = 128  # of a PCG64 generator's state
MAX_DEPTH = 32
MAX_DIMENSIONS = 32
_MAX_SECONDS = 1e11  # three thousand years
# A part of anyone's own stands some levels down in the state of a run.
_MAX_OWN_DEPTH = MAX_DEPTH - 12

# NumPy scalars that calculate as Python's numbers do; one of another width would not come back.
_NUMBERS = {bool: bool, np.bool_: bool, int: int, np.int64: int, float: float, np.float64: float}
_WORDS = {str, np.str_}


def copy_plain(value: Any, where: str, depth: int = 0) -> Any:
    """A deep copy of a plain value, with Python's own numbers in it.

    Raises StateError naming the place of what is not plain, or more than a checkpoint can hold.
    """
    if depth > _MAX_OWN_DEPTH:
        raise StateError(f"{where[:60]} is nested more than {_MAX_OWN_DEPTH} deep")
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise StateError(f"{where} has a key that is no string")
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
            "those, arrays of numbers and dicts can be kept"
        )
    number = _NUMBERS[type(value)](value)
    if type(number) is int and number.bit_length() > MAX_INT_BITS:
        raise StateError(f"{where} has {number.bit_length()} bits: {MAX_INT_BITS} at most")
    return number


def text_bytes(value: Any) -> int:
    """About how much text a plain value makes, arrays left out: at most, but for a few marks."""
    if isinstance(value, dict):
        return sum(text_bytes(key) + text_bytes(inner) + 4 for key, inner in value.items())
    if isinstance(value, list):
        return sum(text_bytes(inner) + 2 for inner in value)
    if isinstance(value, str):
        return len(value) if value.isascii() and value.isprintable() else 12 * len(value)
    return 80 if isinstance(value, np.ndarray) else 40


def fields(value: Any, names: set[str], where: str) -> State:
    """A dict with exactly these keys; raises StateError naming those that differ."""
    if not isinstance(value, dict):
        raise StateError(f"{where} is of type {type(value).__name__}: a dict expected")
    for name in sorted(names - value.keys()):
        raise StateError(f"{where}.{name} is missing")
    for name in value.keys() - names:
        raise StateError(f"{where}.{name} is not known here")
    return value


def array(value: Any, shape: tuple[int, ...], dtype: DTypeLike, where: str) -> np.ndarray:
    """A copy of an array; raises StateError where it is none of this shape and dtype."""
    if not isinstance(value, np.ndarray):
        raise StateError(f"{where} is of type {type(value).__name__}: an array expected")
    if value.dtype != dtype:
        raise StateError(f"{where} has dtype {value.dtype}: {np.dtype(dtype)} expected")
    if value.shape != shape:
        raise StateError(f"{where} has shape {value.shape}: {shape} expected")
    return np.array(value)


def integer(value: Any, least: int, most: int | None, where: str) -> int:
    """An int from least to most, both included; raises StateError where it is none."""
    if type(value) is not int:
        raise StateError(f"{where} is of type {type(value).__name__}: an int expected")
    if value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"{least} to {most}"
        raise StateError(f"{where} is {value}: {span} expected")
    return value


def number(value: Any, where: str) -> float:
    """A finite float; raises StateError where it is none."""
    if type(value) is not float or not np.isfinite(value):
        raise StateError(f"{where} is {value!r:.40}: a finite float expected")
    return value


def truth(value: Any, where: str) -> bool:
    """A bool; raises StateError where it is none."""
    if type(value) is not bool:
        raise StateError(f"{where} is of type {type(value).__name__}: a bool expected")
    return value


def word(value: Any, known: tuple[str, ...], where: str) -> str:
    """One of the known words; raises StateError where it is none."""
    if type(value) is not str or value not in known:
        raise StateError(f"{where} is {value!r:.60}: {' or '.join(map(repr, known))} expected")
    return value


def take(state: State, name: str) -> Any:
    """A field that must be there. Raises StateError."""
    if name not in state:
        raise StateError(f"{name} is missing")
    return state[name]


def take_array(state: State, name: str, like: np.ndarray) -> np.ndarray:
    """A copy of a field that must have the shape and dtype of another array."""
    return array(take(state, name), like.shape, like.dtype, name)


def take_generator(state: State, name: str, like: np.ndarray) -> np.ndarray:
    """A copy of a field that must be the state of a generator of rng.py."""
    words = take_array(state, name, like)
    if not words.any():
        raise StateError(f"{name} is all zeros: that generator would give zeros for ever")
    return words


def take_count(state: State, name: str) -> int:
    """A field that must be a whole number, 0 or more."""
    return integer(take(state, name), 0, 1 << 62, name)


def take_number(state: State, name: str) -> float:
    """A field that must be a finite number."""
    value = take(state, name)
    return float(value) if type(value) is int else number(value, name)


def take_seconds(state: State, name: str) -> float:
    """A field that must be a time that a run can have taken."""
    seconds = take_number(state, name)
    if not 0.0 <= seconds < _MAX_SECONDS:
        raise StateError(f"{name} is {seconds:g} seconds: no run takes that")
    return seconds


def take_truth(state: State, name: str) -> bool:
    """A field that must be a bool."""
    return truth(take(state, name), name)


def take_list(state: State, name: str) -> list:
    """A field that must be a list."""
    value = take(state, name)
    if type(value) is not list:
        raise StateError(f"{name} is of type {type(value).__name__}: a list expected")
    return value


def take_state(state: State, name: str) -> State:
    """A field that must hold fields of its own."""
    value = take(state, name)
    if not isinstance(value, dict):
        raise StateError(f"{name} is {value!r:.80}: fields of its own expected")
    return value
