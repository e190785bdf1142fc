"""kernel: the one decorator for compiled functions, with a cache that notices shared code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

# Files whose kernels are compiled into those of others. Numba's cache looks at the file of the
# outer function alone, and would go on serving an inner one that has changed since.
SHARED = (
    "rng.py", "products.py", "atomics.py", "learning/fused.py", "replay/ring.py",
    "replay/sum_tree.py", "acting/finite.py",
)  # fmt: skip

# Where the cache keeps each kernel that was imported.
_indices: list[Path] = []
COMPILES = not config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the GIL; later processes load it from the cache."""
    return _cached(numba.njit(cache=True, nogil=True)(function))


def ieee_kernel(function: Callable[..., Any]) -> Any:
    """As kernel(); a division by zero gives inf or NaN, so that loops need not watch for it."""
    return _cached(numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _cached(dispatcher: Any) -> Any:
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is not None:  # none where compiling is switched off
        index._source_stamp = (index._source_stamp, shared_stamp())
        _indices.append(Path(index._index_path))
    return dispatcher


def never_compiled() -> bool:
    """Whether a run compiles all that it needs, since the cache has none of the kernels yet."""
    return COMPILES and not any(path.exists() for path in _indices)


def shared_stamp(package: Path = Path(__file__).parent) -> tuple:
    """Time of change and size of each shared file: what Numba keeps of the outer one."""
    stats = ((package / name).stat() for name in SHARED)
    return tuple((stat.st_mtime, stat.st_size) for stat in stats)
