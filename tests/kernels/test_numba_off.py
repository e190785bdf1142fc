"""Kernels give the same results as plain Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = (
    "kernels/test_rng.py", "replay/test_store.py", "replay/test_replay.py",
    "replay/test_replay_model.py", "replay/test_sum_tree.py", "replay/test_prioritized_model.py",
)  # fmt: skip
# Without those that draw thousands of times.
SMALL = "not (1000 or 1023 or 1025 or 4096 or drawn_by_rows or drawn_uniformly or flat_in)"


@pytest.mark.slow
def test_the_replay_works_without_the_compiler():
    env = os.environ | {"NUMBA_DISABLE_JIT": "1", "FASTDQN_TEST_EXAMPLES": "3"}
    # NumPy's scalars warn where the generator's sums wrap around; compiled ones just do.
    wrap = "ignore:overflow encountered in scalar add:RuntimeWarning"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "not slow", "-k", SMALL, "-W", wrap,
         *(str(TESTS / file) for file in FILES)],
        cwd=TESTS.parent, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
