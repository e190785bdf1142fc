"""The message before the first compile."""

import os
import subprocess
import sys

import pytest

from fastdqn.cli.main import _announce_compiling
from fastdqn.kernels import first_compile, jit


@pytest.mark.skipif(not jit.COMPILES, reason="Numba does not compile")
def test_the_folder_of_a_cached_kernel_is_found_without_numba(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    assert not first_compile.kernels_cached()
    folder = tmp_path / first_compile._subfolder(first_compile._PACKAGE / "kernels")
    folder.mkdir()
    (folder / f"f-1.py{sys.version_info.major}{sys.version_info.minor}.nbi").touch()
    assert first_compile.kernels_cached()


@pytest.mark.slow
def test_a_first_run_announces_the_compile_in_a_pipe(tmp_path):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DISABLE_JIT": "0"}
    words = [sys.executable, "-m", "fastdqn", "train", "no-such-env"]
    loud = subprocess.run(words, env=env, capture_output=True, text=True)
    assert loud.stderr.startswith("compiling kernels (once, about 10 s)\n")


@pytest.mark.parametrize(
    ("words", "announced"),
    [("train x", True), ("train x --quiet", False), ("train x --dry-run", False), ("envs", False)],
)
def test_a_quiet_first_run_does_not_announce_the_compile(monkeypatch, capsys, words, announced):
    monkeypatch.setattr("fastdqn.cli.main.kernels_cached", lambda: False)
    _announce_compiling(words.split())
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "compiling kernels (once, about 10 s)\n" * announced)
