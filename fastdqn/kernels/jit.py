"""kernel: the decorator for compiled functions, with a cache that tracks shared code.

The cache is optional: if it cannot be read or written, functions are compiled in each process.
"""

import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile

# Files whose kernels are inlined in other kernels. Numba's cache checks the file of the outer
# function only, so it would keep using an outdated inner function.
SHARED = (
    "kernels/rng.py", "kernels/matmul.py", "kernels/vectors.py", "kernels/vector_math.py",
    "learning/fused_kernel.py", "learning/fused_passes.py", "learning/fused_categorical.py",
    "learning/fused_quantile.py", "replay/ring.py", "replay/sum_tree.py", "envs/finite_check.py",
    "compiled/generator.py",
)  # fmt: skip

# The cache index of each imported kernel.
_indices: list[Path] = []
COMPILES = not config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]
_DIGEST_BYTES = 16


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles at the first call, without the GIL; later processes load it from the cache."""
    return _cached(numba.njit(nogil=True)(function))


def ieee_kernel(function: Callable[..., Any]) -> Any:
    """As kernel(), but a division by zero gives inf or NaN, so loops need no check for it."""
    return _cached(numba.njit(nogil=True, error_model="numpy")(function))


class _CodeFiles(IndexDataCacheFile):
    """Numba's index and code files, with a checksum of stamp and code before the code.

    A truncated file, or one that was never written to disk, may still look valid. So may code of
    another stamp: the index is written before it, and another process may have replaced it.
    """

    def _save_data(self, name, data):
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(self._digest(code) + code)

    def _load_data(self, name):
        with open(self._data_path(name), "rb") as file:
            stored = file.read()
        digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return pickle.loads(code) if self._digest(code) == digest else None

    def _digest(self, code: bytes) -> bytes:
        stamp = repr(self._source_stamp).encode()
        return hashlib.blake2b(stamp + b"\0" + code, digest_size=_DIGEST_BYTES).digest()


class DiskCache(FunctionCache):
    """Numba's cache of a function's compiled code; disk errors never make a call fail.

    Args:
        function: The function in Python.
        more: What the code depends on, beside the file of the function.
        name: Part of the file names, for a function that is compiled in several forms.
    """

    def __init__(self, function: Callable[..., Any], more: Any, name: str = ""):
        super().__init__(function)
        stamp = (self._impl.locator.get_source_stamp(), more)
        base = f"{self._impl.filename_base}{name and '-'}{name}"
        self._cache_file = _CodeFiles(self._cache_path, base, stamp)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file may raise anything
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:  # a read-only folder, a full disk or a damaged index
            if self._index_is_damaged():  # a damaged index would reject new code forever
                with contextlib.suppress(Exception):
                    os.unlink(self._cache_file._index_path)
                    super().save_overload(sig, data)

    def _index_is_damaged(self) -> bool:
        try:
            self._cache_file._load_index()
        except OSError:
            return False
        except Exception:
            return True
        return False


def _cached(dispatcher: Any) -> Any:
    """Adds a cache to a dispatcher, if there is a folder for it."""
    if not COMPILES:  # then it is the Python function
        return dispatcher
    with contextlib.suppress(Exception):  # no writable folder, or an unusual loader
        dispatcher._cache = DiskCache(dispatcher.py_func, shared_stamp())
        _indices.append(Path(dispatcher._cache._cache_file._index_path))
    return dispatcher


def cache_folder() -> Path | None:
    """Returns the folder of compiled kernels; None if each process compiles its own."""
    return next((path.parent for path in _indices), None)


def shared_stamp(package: Path = Path(__file__).parents[1]) -> tuple:
    """Returns modification time and size of each shared file, as Numba stores for the outer one."""
    stats = ((package / name).stat() for name in SHARED)
    return tuple((stat.st_mtime, stat.st_size) for stat in stats)
