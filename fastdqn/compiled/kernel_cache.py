"""add_cache(): keeps the compiled kernels of definitions on disk between processes.

Numba's own cache cannot: the kernel is one function for all definitions, and the functions inside
it have another identity in each process.
"""

import contextlib
import enum
import hashlib
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numba.core import config

from fastdqn.compiled.definition import EnvDefinition
from fastdqn.kernels.jit import DiskCache, shared_stamp


def add_cache(dispatcher: Any, definition: EnvDefinition) -> Any:
    """Adds a cache file of its own to the kernel of a definition, if there is a folder for it."""
    with contextlib.suppress(Exception):  # no writable folder, or an unusual loader
        dispatcher._cache = _DefinitionCache(dispatcher.py_func, definition)
    return dispatcher


class _DefinitionCache(DiskCache):
    def __init__(self, function: Any, definition: EnvDefinition):
        functions = (definition.reset, definition.step, definition.observe, definition.mask)
        checks = config.BOUNDSCHECK  # pyright: ignore[reportAttributeAccessIssue]
        code = fingerprint(*functions, definition.params is None, bool(checks))
        names = [_full_name(each) for each in functions]
        name = hashlib.blake2b(" ".join(names).encode(), digest_size=8).hexdigest()
        super().__init__(function, (code, shared_stamp()), name)

    def _index_key(self, sig, codegen):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sig, codegen.magic_tuple()  # the stamp covers the functions inside

    def save_overload(self, sig, data):
        with warnings.catch_warnings():  # large global arrays cannot be kept; params can
            warnings.simplefilter("ignore", numba.NumbaWarning)
            super().save_overload(sig, data)


def fingerprint(*functions: Any) -> str:
    """Returns a hash of functions' code, and of the globals and functions that they use."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(functions, set()):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(thing: Any, seen: set[int]) -> Iterator[bytes]:
    """Yields what a value consists of; raises TypeError for a value of an unknown kind."""
    thing = getattr(thing, "_dispatcher", thing)  # of numba.vectorize
    if hasattr(thing, "py_func"):
        yield repr(sorted(getattr(thing, "targetoptions", {}).items())).encode()
        thing = thing.py_func
    if isinstance(thing, types.CodeType):
        yield thing.co_code
        yield repr(thing.co_names).encode()
        yield from _parts(thing.co_consts, seen)
    elif isinstance(thing, types.FunctionType) and not _is_of_a_library(thing.__module__):
        if id(thing) not in seen:
            seen.add(id(thing))
            yield from _parts_of_function(thing, seen)
    elif isinstance(thing, tuple | list | frozenset):
        yield f"{type(thing).__name__} {len(thing)} {getattr(thing, '_fields', ())}".encode()
        for inner in sorted(thing, key=repr) if isinstance(thing, frozenset) else thing:
            yield from _parts(inner, seen)
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype} {thing.shape}".encode()
        yield thing.tobytes()
    elif isinstance(thing, bool | int | float | complex | str | bytes | np.generic | None):
        yield f"{type(thing).__name__} {thing!r}".encode()
    elif isinstance(thing, type) and issubclass(thing, enum.Enum):
        yield repr(list(thing)).encode()
    elif isinstance(thing, enum.Enum):
        yield repr(thing).encode()
    elif isinstance(thing, np.dtype):
        yield repr(thing.descr).encode()
    elif (defined := getattr(thing, "_defn", None)) is not None:  # of numba.extending.intrinsic
        yield from _parts(defined, seen)
    elif isinstance(thing, type | types.BuiltinFunctionType | types.ModuleType | np.ufunc):
        yield thing.__name__.encode()
    elif _is_of_a_library(getattr(thing, "__module__", None)):
        yield str(getattr(thing, "__name__", type(thing).__name__)).encode()
    else:
        raise TypeError(f"a {type(thing).__name__} may change unseen, so the code is not kept")


def _parts_of_function(function: types.FunctionType, seen: set[int]) -> Iterator[bytes]:
    code, names = function.__code__, _names(function.__code__)
    yield _file_stamp(sys.modules.get(function.__module__ or ""))
    yield from _parts(code, seen)
    yield from _parts((function.__defaults__, tuple((function.__kwdefaults__ or {}).items())), seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name.encode()
        yield from _parts(value, seen)
        if isinstance(value, types.ModuleType):
            yield from _parts_of_module(value, names, seen)


def _parts_of_module(module: types.ModuleType, names: list[str], seen: set[int]) -> Iterator[bytes]:
    """Yields the constants and functions of a module that a code names, as in m.SPEED."""
    if id(module) in seen or _is_of_a_library(module.__name__):
        return
    seen.add(id(module))
    yield _file_stamp(module)
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, types.ModuleType):
            yield from _parts_of_module(value, names, seen)
        elif value is not None:
            yield from _parts(value, seen)


def _file_stamp(module: types.ModuleType | None) -> bytes:
    """Returns time and size of a module's file, which may hold more than its functions show."""
    try:
        stat = os.stat(str(getattr(module, "__file__", None)))
    except OSError:
        return b""
    return f"{stat.st_mtime} {stat.st_size}".encode()


def _is_of_a_library(module: str | None) -> bool:
    """Whether a module is of a library whose code does not change between processes."""
    return (module or "").partition(".")[0] in ("gymnasium", "math", "numba", "numpy")


def _full_name(function: Any) -> str:
    function = getattr(function, "py_func", function)
    return f"{function.__module__}.{function.__qualname__}" if function is not None else "-"


def _names(code: types.CodeType) -> list[str]:
    """Returns the global names of a code and of the functions inside it."""
    names = list(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names += _names(inner)
    return names
