"""kernels_cached: whether compiled kernels exist on disk, without importing Numba."""

import hashlib
import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def kernels_cached(package: Path = _PACKAGE) -> bool:
    """Returns whether a kernel of this Python version is in a cache folder of Numba.

    True also if Numba does not compile (NUMBA_DISABLE_JIT=1).
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return True
    pattern = f"*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    sources = [folder for folder in package.iterdir() if folder.is_dir()]
    return any(
        next(place.glob(pattern), None)
        for source in sources
        for place in _places(source)
        if place.is_dir()
    )


def _places(source: Path) -> list[Path]:
    """Returns the folders where Numba may keep the kernels of a source folder."""
    if own := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(own) / _subfolder(source)]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "numba")
    return [source / "__pycache__", user / _subfolder(source)]


def _subfolder(source: Path) -> str:
    """Returns Numba's folder name of a source folder: its name and a hash of its path."""
    digest = hashlib.sha1(str(source).encode(), usedforsecurity=False).hexdigest()
    return f"{source.name}_{digest}"
