"""Launches a measurement in a new process, with a limited number of threads."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
# Timeout in seconds. The slowest peer takes about a minute.
_PATIENCE = 1800
_VERSIONS = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class LaunchError(RuntimeError):
    """Raised if a process fails. The message is one line."""


def thread_settings(threads: int) -> dict[str, str]:
    """Returns environment variables that limit every library to a number of threads.

    torch, MKL, OpenBLAS and Numba each have one. XLA sizes its thread pools by NPROC, and its flag
    keeps Eigen from starting further threads.
    """
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    eigen = "true" if threads > 1 else "false"
    return {
        **dict.fromkeys(names, count),
        "NPROC": count,
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}",
        "JAX_PLATFORMS": "cpu",
    }


def versions(python: str, distributions: Iterable[str]) -> dict[str, str]:
    """Returns versions of installed packages. Raises LaunchError if the interpreter fails."""
    output = _run([python, "-c", _VERSIONS, *distributions], None, {})
    try:
        return json.loads(output)
    except ValueError:
        raise LaunchError(f"{python} is not a Python interpreter") from None


def measure(
    python: str, peer: str, workload: str, *, steps: int, threads: int, seed: int
) -> dict[str, Any]:
    """Measures a peer once, see peers/__main__.py. Raises LaunchError."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        request = {
            "peer": peer,
            "workload": workload,
            "steps": steps,
            "threads": threads,
            "seed": seed,
            "result": str(result),
            "started": time.time(),
        }
        _run([python, "-m", "peers"], json.dumps(request), thread_settings(threads))
        return json.loads(result.read_text())


def _run(words: list[str], stdin: str | None, settings: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=BENCHMARKS,  # where `-m peers` finds the package
            env={**os.environ, **settings},
            timeout=_PATIENCE,
        )
    except OSError as error:
        raise LaunchError(f"{words[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"no result within {_PATIENCE} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LaunchError(lines[-1])
    return done.stdout
