"""compile_kernel(): compiles a kernel, and names what a function of its definition does wrong."""

import itertools
import re
import warnings
from typing import Any

import numba
from numba.core import types
from numba.core.errors import NumbaError

from fastdqn.compiled.kernels import Kernel

# What each function returns, and the type that shows it.
_RESULTS = {
    "reset": "it must change the state and return nothing",
    "step": "it must return (reward, terminated), a number and a bool",
    "observe": "it must write into out, as out[:] = ..., and return nothing",
    "mask": "it must write into out, as out[:] = ..., and return nothing",
}


def compile_kernel(kernel: Kernel, arguments: tuple) -> Any:
    """Returns the kernel's code for arguments of these types, without a lookup of their types.

    Raises:
        ValueError: A function cannot be compiled, or returns something else than it must.
    """
    signature = tuple(map(numba.typeof, arguments))
    of_parts = _types_of_parts(kernel, signature)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", numba.NumbaWarning)
            entry = kernel.advance.compile(signature)
    except Exception as error:  # Numba raises errors of many kinds
        raise ValueError(_why(kernel, of_parts) or _reason(error)) from error
    problems = (_wrong_result(kernel, name, each) for name, each in of_parts.items())
    if line := next(filter(None, problems), None):
        kernel.advance._cache.flush()  # else the next process would load it unchecked
        raise ValueError(line)
    return entry


def _types_of_parts(kernel: Kernel, signature: tuple) -> dict[str, tuple]:
    """Returns the types of the arguments of each function of the definition."""
    *_, action, state, _, _, out, params = signature
    more = (params,) if kernel.has_params else ()
    given = _row(action)
    of_parts = {
        "reset": (state.dtype, types.npy_rng), "step": (state.dtype, given, types.npy_rng),
        "observe": (state.dtype, _row(out[0])), "mask": (state.dtype, _row(out[4])),
    }  # fmt: skip
    return {name: (*of_parts[name], *more) for name in kernel.parts}


def _row(array: Any) -> Any:
    return array.dtype if array.ndim == 1 else array.copy(ndim=array.ndim - 1)


def _why(kernel: Kernel, of_parts: dict[str, tuple]) -> str | None:
    """Returns which function fails, and why, in one line; None if each is fine by itself."""
    for name, part in kernel.parts.items():
        try:
            part.compile(of_parts[name])
        except Exception as error:
            return f"{name}() cannot be compiled: {_reason(error, of_parts[name][0])}"
        if line := _wrong_result(kernel, name, of_parts[name]):
            return line
    return None


def _wrong_result(kernel: Kernel, name: str, arguments: tuple) -> str | None:
    """Returns a line if a function returns something else than it must; None if it is not known."""
    if (found := kernel.parts[name].overloads.get(arguments)) is None:  # loaded from the cache
        return None
    result: Any = found.signature.return_type
    pair: Any = result if isinstance(result, types.BaseTuple) and len(result) == 2 else None
    fine = isinstance(result, types.NoneType)
    if name == "step":
        fine = pair and isinstance(pair[0], _REWARDS) and isinstance(pair[1], types.Boolean)
    return None if fine else f"{name}() returns {result}: {_RESULTS[name]}"


_REWARDS = (types.Integer, types.Float)


def _reason(error: Exception, record: Any = None) -> str:
    """Returns the first reason that Numba gives with a place, and the usual remedy.

    record: Type of the state.
    """
    if isinstance(error, KeyError) and record is not None:  # Numba's, for an unknown field
        return f"the state has no field {error}, its fields are {', '.join(record.fields)}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if not _NOISE.match(line)), "no reason is given")
    if not isinstance(error, NumbaError):
        reason = f"{type(error).__name__}: {reason}"
    where = ""
    for before, line in itertools.pairwise(lines):
        if (place := _PLACE.match(line)) and not _NOISE.match(before):
            reason, where = before, f" ({place[1]}, line {place[2]})"
            break
    if reason.endswith(":"):  # of a function that has no form for these types
        reason += " " + next((line[4:] for line in lines if line.startswith(">>> ")), "")
    said = f"{type(error).__name__} {text}"
    remedy = next((advice for word, advice in _REMEDIES.items() if word in said), "")
    return reason[:_LONGEST].rstrip() + where + remedy


_LONGEST = 300
_REMEDIES = {
    "<class 'function'>": ". Decorate it with numba.extending.register_jitable",
    "DictType": ". A dict cannot be used; step() returns (reward, terminated) only",
    "Untyped global name": ". Use numbers, arrays, or params",
    "Cannot cast": ". Assign to an array field with state.field[:] = ...",
    "AssertionError": ". Assign to an array field with state.field[:] = ...",
}
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
_NOISE = re.compile(
    r"File |def |<source|During: |Failed in |\^|- Resolution|- Of which|Overload|There are|"
    r"This error|- argument|Enable|\* |>>>|Rejected|self\.|raised from|\.\.\.|%"
)
