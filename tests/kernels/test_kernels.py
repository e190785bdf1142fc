"""The cache of compiled kernels."""

import ast
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

import fastdqn
from fastdqn.kernels import jit
from fastdqn.kernels.jit import SHARED, kernel
from fastdqn.replay import Ring

PACKAGE = Path(fastdqn.__file__).parent
needs_compiler = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")


def kernels_of(nodes: list[ast.AST]) -> set[str]:
    """Names of the functions of a file that are compiled."""
    return {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        and any(getattr(d, "id", "") in ("kernel", "ieee_kernel") for d in node.decorator_list)
    }


@pytest.mark.slow
def test_kernels_are_imported_only_from_files_tracked_by_the_cache():
    trees = {file: list(ast.walk(ast.parse(file.read_text()))) for file in PACKAGE.rglob("*.py")}
    homes = {name: file for file, nodes in trees.items() for name in kernels_of(nodes)}
    for nodes in trees.values():
        for node in nodes:
            for name in [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []:
                if name in homes:
                    assert str(homes[name].relative_to(PACKAGE)) in SHARED, name


@pytest.mark.slow
def test_a_change_in_a_shared_kernel_reaches_the_kernels_that_use_it(tmp_path):
    """Numba alone would keep using the old rule of validity."""
    package = tmp_path / "fastdqn"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import numpy as np\n"
        "from fastdqn.kernels.rng import seed_state\n"
        "from fastdqn.replay.ring import LIVE, OPEN\n"
        "from fastdqn.replay.uniform_sampler import _draw\n"
        "status, index = np.zeros((1, 9), np.uint8), np.zeros(64, np.int64)\n"
        "status[0, :4] = LIVE, LIVE, LIVE, OPEN\n"
        "assert _draw(seed_state(0), np.array([4]), status, 1, 1, index)\n"
        "print(sorted(set(index.tolist())))"
    )

    def drawn():
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": ""}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert drawn() == "[0, 1, 2]"
    ring = package / "replay" / "ring.py"
    rule = "    if not status[lane, slot] & LIVE:\n"
    assert rule in ring.read_text()
    ring.write_text(ring.read_text().replace(rule, "    if row == 1:\n"))
    assert drawn() == "[0, 2]"


def test_a_repeated_environment_is_rejected_and_changes_nothing():
    ring = Ring(num_lanes=3, rows=4)
    ring.add_starts([0, 1, 2])
    before = ring.status.copy(), ring.added.copy()
    with pytest.raises(ValueError, match="is repeated"):
        ring.add_outcomes([0, 1, 1], [0] * 3, [0.0] * 3, [True] * 3, [False] * 3)
    np.testing.assert_array_equal(ring.status, before[0])
    np.testing.assert_array_equal(ring.added, before[1])


def compiled(value: int) -> int:
    """Any function of a file, for a cache."""
    return value + 1


@pytest.fixture
def cached_here(tmp_path, monkeypatch):
    """Numba stores its cache below tmp_path.

    A variable of the environment, since Numba reads them all again when it compiles after one of
    them has changed, as main() changes this one. An attribute of its config would then be lost.
    """
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        config.reload_config()
        yield
    config.reload_config()


@pytest.fixture
def cache(tmp_path, monkeypatch, cached_here):
    """A folder for the cache, and a new process, as it were: the kernel is made again."""
    monkeypatch.setattr(jit, "_indices", [])

    def files() -> list[Path]:
        return sorted(path for path in tmp_path.rglob("*") if path.is_file())

    assert kernel(compiled)(1) == 2
    assert [path.suffix for path in files()] == [".nbc", ".nbi"]
    return files


def loaded_from_cache() -> bool:
    made = kernel(compiled)
    assert made(1) == 2
    return sum(made.stats.cache_hits.values()) == 1


@needs_compiler
def test_a_kernel_is_loaded_from_the_cache(cache):
    assert loaded_from_cache()
    assert jit.cache_folder() == cache()[0].parent


@needs_compiler
def test_a_kernel_is_loaded_from_the_cache_after_numba_read_its_environment_again(
    cache, monkeypatch
):
    monkeypatch.setenv("NUMBA_DEBUG_CACHE", "0")
    assert kernel(lambda value: value - 1)(1) == 0
    assert loaded_from_cache()


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "zeros at its end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "noise": lambda data: b"\x80\x04c\x00" + data,
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_file_is_replaced(cache, suffix, damage):
    (path,) = [each for each in cache() if each.suffix == suffix]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert not loaded_from_cache()
    assert loaded_from_cache()


@needs_compiler
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_cache_entry_that_is_no_file_is_ignored(cache, suffix):
    (path,) = [each for each in cache() if each.suffix == suffix]
    path.unlink()
    path.mkdir()
    assert not loaded_from_cache()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.usefixtures("cached_here")
def test_a_read_only_cache_is_ignored(monkeypatch, code):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(jit.IndexDataCacheFile, "_open_for_write", refuse)
    assert not loaded_from_cache()
    assert not loaded_from_cache()


@needs_compiler
def test_without_a_folder_for_a_cache_each_process_compiles(monkeypatch):
    """As in a read-only tree with a read-only home."""

    def refuse(self):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(jit, "_indices", [])
    monkeypatch.setattr("numba.core.caching._CacheLocator.ensure_cache_path", refuse)
    assert not loaded_from_cache()
    assert jit.cache_folder() is None
