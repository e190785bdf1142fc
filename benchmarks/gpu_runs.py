"""Parts tests, resume, atari and pong of the GPU suite: test runs and training runs."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import fastdqn
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from fastdqn.session import Trained
from fastdqn.study import run_process
from gpu_rows import Bench, Cell, Row, SkippedError, last_lines

_ROOT = Path(__file__).resolve().parents[1]
# Seconds between the rows of a training run, and before its time limit at which it stops.
_ROW_SECONDS, _STOP_SECONDS = 15.0, 6.0
# Most seconds of a test. Ours, untuned.
_TEST_SECONDS = 45.0
_TINY: Row = {
    "learning_starts": 40, "buffer_size": 400, "num_envs": 4, "eval_frequency": 0,
    "stop_at_return": None, "eval_episodes": 1, "eval_max_steps": 4, "batch_size": 8, "threads": 1,
}  # fmt: skip
# A run is not saved while it is measured.
_UNSAVED: Row = {
    "checkpoint_seconds": None, "checkpoint_frequency": None, "checkpoint_replay": False,
    "tensorboard": False,
}  # fmt: skip


def test_cells(bench: Bench) -> list[Cell]:
    return [Cell("pytest", _run_tests)]


def _run_tests(bench: Bench) -> Row:
    """Runs the tests that need a GPU in a process. Its plugin appends a row for each test."""
    words = ["-m", "pytest", "-q", "-m", "gpu", "-c", os.devnull, "--rootdir", str(_ROOT)]
    words += ["--noconftest", "-p", "no:cacheprovider", "-p", "gpu_tests", "--tb=short"]
    paths = [str(_ROOT / "tests"), str(_ROOT / "benchmarks"), str(_ROOT)]
    given = {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "GPU_SUITE_OUT": str(bench.out.resolve()),
        "GPU_SUITE_SECONDS": str(_TEST_SECONDS),
    }
    run = subprocess.run(
        [sys.executable, *words, str(_ROOT / "tests/gpu/test_gpu.py")], cwd=bench.temporary,
        env=os.environ | given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    outcomes = Counter(
        row.get("figures", {}).get("outcome", "failed") for row in bench.rows.again()
        if row["part"] == bench.part and row["cell"] not in (None, "pytest")
    )  # fmt: skip
    # 1 is a failed test, but also the exit code of Python without pytest; 5 is nothing left to run.
    if run.returncode not in (0, 1, 5) or not outcomes:
        end = last_lines(run.stdout)
        raise RuntimeError(f"pytest ended with exit code {run.returncode}: {end}")
    return dict(outcomes)


def resume_cells(bench: Bench) -> list[Cell]:
    return [Cell("cartpole, killed and resumed", _resume)]


def _resume(bench: Bench) -> Row:
    """Trains in a process that is killed, resumes here, and loads the weights on the CPU."""
    with _folder(bench) as folder:
        began = time.monotonic()
        killed = kill_run(bench, folder)
        resumed = time.monotonic()
        run = fastdqn.resume(folder, on_step=lambda *_: bench.left() > _STOP_SECONDS)
        trained = time.monotonic()
        policy = fastdqn.load_policy(folder)
        actions = policy(np.zeros((3, 4), np.float32))
    if actions.shape != (3,) or run.summary["total_steps"] <= killed:
        raise RuntimeError(f"resumed at {killed} steps, it ends at {run.summary['total_steps']}")
    return {
        "killed_steps": killed, "steps": run.summary["total_steps"],
        "updates": run.summary["updates"], "exit_reason": run.summary["exit_reason"],
        "seconds_until_killed": resumed - began, "seconds_resumed": trained - resumed,
    }  # fmt: skip


def kill_run(bench: Bench, folder: Path) -> int:
    """Starts a run and kills it after its first checkpoint. Returns the steps of that."""
    words = [
        "train", "cartpole", "--device", bench.device, "--learner", "torch", "--run-dir",
        str(folder), "--total-timesteps", "6000" if bench.dry else "100000", "--threads", "1",
        "--stop-at-return", "None", "--eval-frequency", "0", "--eval-episodes", "5",
        "--checkpoint-frequency", "2000", "--checkpoint-seconds", "None", "--quiet",
    ]  # fmt: skip
    program = [sys.executable, "-P", run_process.__file__, str(os.getpid()), ""]
    latest, errors = folder / "checkpoints" / "latest", bench.temporary / "run-errors"
    with (
        open(errors, "w") as file,
        subprocess.Popen([*program, *words], stdout=file, stderr=file) as process,
    ):
        try:
            while process.poll() is None and not _steps_of(latest):
                time.sleep(0.005)
        finally:
            process.kill()
    if not (steps := _steps_of(latest)):
        raise RuntimeError(f"the run ended without a checkpoint: {last_lines(errors.read_text())}")
    return steps


def _steps_of(latest: Path) -> int:
    """Returns the steps of the latest checkpoint, or 0 without one."""
    return int(latest.read_text().strip().removeprefix("step-")) if latest.exists() else 0


def atari_cells(bench: Bench) -> list[Cell]:
    return [Cell("128 environments, an update per 4 steps", _atari)]


def _atari(bench: Bench) -> Row:
    """Measures training on Pong until the time is over, with a row every 15 s."""
    _require_ale()
    config = PRESETS["atari-pong"].replace(
        device=bench.device, learner="torch", prioritized=False, eval_frequency=0,
        stop_at_return=None, final_evaluation=False, total_timesteps=1 << 30, **_UNSAVED,
    )  # fmt: skip
    if bench.dry:
        config = config.replace(**_TINY | {"final_evaluation": False})
    else:
        # Twice as many environments as a step waits for, so that none delays the others.
        config = config.replace(num_envs=128, env_batch_size=64, train_frequency=4)
    with _folder(bench) as folder:
        return _summary(fastdqn.train(config.replace(run_dir=str(folder)), on_step=Meter(bench)))


def pong_cells(bench: Bench) -> list[Cell]:
    return [Cell("preset atari-pong", _pong)]


def _pong(bench: Bench) -> Row:
    """Trains Pong from pixels until it is solved or the time is over."""
    _require_ale()
    config: Config = PRESETS["atari-pong"].replace(device=bench.device, learner="torch", **_UNSAVED)
    if bench.dry:
        config = config.replace(**_TINY | {"total_timesteps": 200})
    began = time.monotonic()

    def evaluated(steps: int, kind: str, evaluation: Any) -> None:
        figures = {"steps": steps, "kind": kind, "mean_return": evaluation.mean_return}
        bench.rows.append(
            bench.part, f"evaluation at {steps} steps", time.monotonic() - began, figures=figures
        )

    with _folder(bench) as folder:
        run = fastdqn.train(
            config.replace(run_dir=str(folder)), on_step=Meter(bench), on_evaluation=evaluated
        )
        return _summary(run)


class Meter:
    """Appends a row of speeds every 15 s, and stops the run before the time limit of its cell."""

    def __init__(self, bench: Bench):
        self._bench, self._every = bench, 0.05 if bench.dry else _ROW_SECONDS
        self._began = self._last = self._until = 0.0
        self._steps = self._updates = 0

    def __call__(self, progress: Any, step: Any) -> bool:
        now = time.monotonic()
        if not self._began:  # seconds before the first step do not count
            self._began = self._last = now
            left = 0.5 if self._bench.dry else self._bench.left()
            self._until = now + left - min(_STOP_SECONDS, left / 2)
        if (seconds := now - self._last) >= self._every:
            figures = {
                "steps": progress.steps, "updates": progress.updates,
                "steps_per_second": (progress.steps - self._steps) / seconds,
                "updates_per_second": (progress.updates - self._updates) / seconds,
            }  # fmt: skip
            name = f"after {now - self._began:.3g} s"
            self._bench.rows.append(self._bench.part, name, seconds, figures=figures)
            self._last, self._steps, self._updates = now, progress.steps, progress.updates
        return now < self._until


def _summary(run: Trained) -> Row:
    names = (
        "total_steps", "updates", "episodes", "exit_reason", "wall_seconds", "steps_per_second",
        "startup_seconds", "phase_seconds", "residual_phases", "solved", "eval",
    )  # fmt: skip
    return {name: run.summary.get(name) for name in names}


def _require_ale() -> None:
    if importlib.util.find_spec("ale_py") is None:
        raise SkippedError("ale_py is not installed: pip install ale-py")


@contextmanager
def _folder(bench: Bench) -> Iterator[Path]:
    """Yields the path of a run folder that does not exist yet, and removes it."""
    with tempfile.TemporaryDirectory(dir=bench.temporary) as folder:
        yield Path(folder, "run")


PARTS: dict[str, Callable[[Bench], list[Cell]]] = {
    "tests": test_cells, "resume": resume_cells, "atari": atari_cells, "pong": pong_cells,
}  # fmt: skip
