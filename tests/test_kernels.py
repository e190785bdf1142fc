"""The cache of compiled kernels."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdqn
from fastdqn import kernels
from fastdqn.kernels import SHARED
from fastdqn.replay import Ring

PACKAGE = Path(fastdqn.__file__).parent


def kernels_of(file: Path) -> set[str]:
    """Names of the functions of a file that are compiled."""
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(getattr(d, "id", "") in ("kernel", "ieee_kernel") for d in node.decorator_list)
    }


def test_kernels_are_imported_only_from_the_files_the_cache_watches():
    homes = {name: file for file in PACKAGE.rglob("*.py") for name in kernels_of(file)}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            for name in [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []:
                if name in homes:
                    assert str(homes[name].relative_to(PACKAGE)) in SHARED, name


def test_a_change_in_a_shared_kernel_reaches_the_kernels_that_use_it(tmp_path):
    """Numba alone would go on drawing by the old rule of validity."""
    package = tmp_path / "fastdqn"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import numpy as np; from fastdqn.replay import *\n"
        "r = Replay(Ring(1, 9), RowStore(1, 9, (1,), np.float32), UniformSampler(0))\n"
        "r.start([0], np.zeros((1, 1)))\n"
        "for _ in range(3): r.add([0], [0], [0.0], np.zeros((1, 1)))\n"
        "b = r.new_batch(64); r.sample(b); print(sorted(set(b.index.tolist())))"
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


def test_a_lane_named_twice_is_refused_without_a_trace():
    ring = Ring(num_lanes=3, rows=4)
    ring.add_starts([0, 1, 2])
    before = ring.status.copy(), ring.added.copy()
    with pytest.raises(ValueError, match="named twice"):
        ring.add_outcomes([0, 1, 1], [0] * 3, [0.0] * 3, [True] * 3, [False] * 3)
    np.testing.assert_array_equal(ring.status, before[0])
    np.testing.assert_array_equal(ring.added, before[1])


def test_the_first_run_knows_that_it_has_everything_to_compile(tmp_path, monkeypatch):
    cached = tmp_path / "explore.nbi"
    monkeypatch.setattr(kernels, "_indices", [tmp_path / "missing.nbi", cached])
    assert kernels.never_compiled() == kernels.COMPILES
    cached.touch()
    assert not kernels.never_compiled()
