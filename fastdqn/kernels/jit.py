"""kernel: the one decorator for compiled functions, with a cache that notices shared code.

The cache is a convenience: one that cannot be read or written costs the time to compile, and
nothing else.
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

# Files whose kernels are compiled into those of others. Numba's cache looks at the file of the
# outer function alone, and would go on serving an inner one that has changed since.
SHARED = (
    "kernels/rng.py", "kernels/matmul.py", "kernels/atomics.py", "learning/fused_kernel.py",
    "replay/ring.py", "replay/sum_tree.py", "envs/finite_check.py",
)  # fmt: skip

# Where the cache keeps each kernel that was imported.
_indices: list[Path] = []
COMPILES = not config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]
_DIGEST_BYTES = 16


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the GIL; later processes load it from the cache."""
    return _cached(numba.njit(nogil=True)(function))


def ieee_kernel(function: Callable[..., Any]) -> Any:
    """As kernel(); a division by zero gives inf or NaN, so that loops need not watch for it."""
    return _cached(numba.njit(nogil=True, error_model="numpy")(function))


class _CodeFiles(IndexDataCacheFile):
    """Numba's files of an index and of code; code is stored behind its checksum, since a file that
    lost its end, or was never written to the disk, may still look like one."""

    def _save_data(self, name, data):
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_digest(code) + code)

    def _load_data(self, name):
        with open(self._data_path(name), "rb") as file:
            stored = file.read()
        digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return pickle.loads(code) if _digest(code) == digest else None


class _Cache(FunctionCache):
    """Numba's cache of a function's compiled code, which no state of the disk makes fail."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        stamp = (self._impl.locator.get_source_stamp(), shared_stamp())
        self._cache_file = _CodeFiles(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever the system or an unpickler makes of a damaged file
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:  # a folder that cannot be written, a full disk, a damaged index
            if self._index_is_damaged():  # it would keep new code out for ever
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
    """Let a dispatcher use a cache, if there is a folder for one."""
    if not COMPILES:  # it is the plain function
        return dispatcher
    with contextlib.suppress(Exception):  # no folder that can be written, or a strange loader
        dispatcher._cache = _Cache(dispatcher.py_func)
        _indices.append(Path(dispatcher._cache._cache_file._index_path))
    return dispatcher


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def never_compiled() -> bool:
    """Whether a run compiles all that it needs, since the cache has none of the kernels yet."""
    return COMPILES and not any(map(os.path.exists, _indices))


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where each process compiles for itself."""
    return next((path.parent for path in _indices), None)


def shared_stamp(package: Path = Path(__file__).parents[1]) -> tuple:
    """Time of change and size of each shared file: what Numba keeps of the outer one."""
    stats = ((package / name).stat() for name in SHARED)
    return tuple((stat.st_mtime, stat.st_size) for stat in stats)
