"""GPU benchmarks, in parts of at most 8 minutes. They need no network access.

    python benchmarks/gpu_suite.py --out benchmarks/results/gpu            # every part
    python benchmarks/gpu_suite.py --part update-nature --out benchmarks/results/gpu
    python benchmarks/gpu_suite.py --dry-run --out /tmp/gpu                # the CPU, tiny sizes

A part that is complete in --out is skipped, and an interrupted one continues. Repeat the command
until all parts are complete. Each file describes the machine. The parts atari and pong need the
extra atari. The part pong trains for some minutes per command, until it is solved. On the CPU
nothing is compiled or captured.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import fastdqn
from fastdqn.bench.learner_speed import measure_learner, measure_upload
from fastdqn.bench.machine_info import describe_machine
from fastdqn.bench.profile_calls import profile_calls
from fastdqn.bench.repeats import Effort
from fastdqn.bench.results import Figure, table
from fastdqn.bench.training_speed import measure_training
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.parts import UserParts
from fastdqn.builders.preflight import preview
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import to_json, write_whole
from harness import console, fail, main_of
from impala import Impala

BATCH_SIZES = (32, 128, 512, 2048)
# Settings of an update: capture, precision, updates per launch.
WAYS = (
    ("eager", "tf32", 1), ("graph", "tf32", 1), ("graph", "tf32", 8), ("graph", "bf16", 8),
    ("graph", "float32", 8), ("compile", "tf32", 1),
)  # fmt: skip
# Layers that are wide enough to use a GPU.
_WIDE = (1024, 1024)
_ATARI = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0)
# No further measurement of a part is started after this time. Compilation takes up to a minute.
_PART_SECONDS = 400.0
# Seconds of a session of Pong, and of the Atari measurement, without a final evaluation.
_STRETCH_SECONDS = 300.0
_TINY = {
    "total_timesteps": 80, "learning_starts": 40, "buffer_size": 400, "num_envs": 4,
    "eval_frequency": 0, "stop_at_return": None, "eval_episodes": 1, "eval_max_steps": 4,
    "batch_size": 8,
}  # fmt: skip
_ROOT = Path(__file__).resolve().parents[1]
Rows = list[dict[str, Any]]


class Asked(NamedTuple):
    """Arguments of a part: whether it is a dry run, the folder, and its existing rows."""

    dry: bool
    out: Path
    had: Rows

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def effort(self) -> Effort:
        return Effort(0.01, 2, 0.01) if self.dry else Effort(0.5, 5, 1.0)


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--part", choices=list(PARTS), help="one part; default: all")
    asked.add_argument("--out", type=Path, required=True, help="folder for the files")
    asked.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    args = asked.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        fail("this machine has no CUDA device: use --dry-run to run every part on the CPU")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {args.out}: {error.strerror}")
    for name in [args.part] if args.part else PARTS:
        _run_part(name, args.dry_run, args.out)


def _run_part(name: str, dry: bool, out: Path) -> None:
    """Makes the missing measurements of a part. Its file is replaced after each."""
    file = out / f"{name}.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    if record.get("dry_run") != dry:
        record = {}
    if record.get("complete"):
        console.print(f"{name}: {file} is complete")
        return
    began, spent, complete = time.perf_counter(), record.get("seconds", 0.0), False
    machine = describe_machine("cpu" if dry else "cuda", 1)
    for rows, complete in PARTS[name](Asked(dry, out, record.get("rows", []))):
        seconds = time.perf_counter() - began
        status = {"part": name, "dry_run": dry, "complete": complete, "seconds": spent + seconds}
        write_whole(file, to_json({**status, "machine": machine, "rows": rows}, indent=1) + "\n")
        if not complete and seconds > _PART_SECONDS:
            break
    console.print(f"{name}: {time.perf_counter() - began:.0f} s, {file}")
    if not complete:
        console.print(f"{name} is not complete: repeat the command to continue")


def _parity(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Runs the tests that need a GPU. On the CPU they are only collected."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    words += ["--collect-only"] if asked.dry else []
    run = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True)
    lines = run.stdout.strip().splitlines()
    console.print(f"parity: {lines[-1] if lines else run.stderr}")
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    row = {"exit_code": run.returncode, "summary": lines[-1:], "failed": failed}
    yield [row], run.returncode == 0


def _update(
    make: Callable[[Asked], tuple[Config, EnvFacts, nn.Module | None]],
) -> Callable[[Asked], Iterator[tuple[Rows, bool]]]:
    """Returns a part: updates/s and samples/s of a network, for each batch size and setting."""

    def part(asked: Asked) -> Iterator[tuple[Rows, bool]]:
        config, facts, torso = make(asked)
        ways = (("eager", "float32", 1),) if asked.dry else WAYS
        cells = [
            {"batch_size": size, "capture": capture, "precision": precision, "launch": launch}
            for capture, precision, launch in ways
            for size in ((8,) if asked.dry else BATCH_SIZES)
        ]
        rows = list(asked.had)
        left = [cell for cell in cells if not any(row["cell"] == cell for row in rows)]
        for i, cell in enumerate(left):
            asked_for = config.replace(
                batch_size=cell["batch_size"], capture=cell["capture"],
                precision=cell["precision"], updates_per_launch=cell["launch"],
            )  # fmt: skip
            resolved = resolve(asked_for, facts, "sync", UserParts(torso)).config
            with arithmetic(resolved):
                figures = list(measure_learner(resolved, facts, (), asked.effort, torso=torso))
            rows += [row | {"cell": cell} for row in _shown("update", figures)]
            yield rows, i == len(left) - 1
        if not left:
            yield rows, True

    return part


def _mlp(asked: Asked) -> tuple[Config, EnvFacts, None]:
    """Workload C with wide layers, or with its own layers on the CPU."""
    config = _workload(asked)
    return config, preview(config).facts, None


def _workload(asked: Asked) -> Config:
    config = PRESETS["cartpole-cleanrl"].replace(num_envs=64, device=asked.device, learner="torch")
    return config if asked.dry else config.replace(hidden_sizes=_WIDE)


def _nature(asked: Asked) -> tuple[Config, EnvFacts, None]:
    """Convolutional network of Nature DQN, with Double and Dueling DQN."""
    return Config(device=asked.device, learner="torch", threads=1), _ATARI, None


def _impala(asked: Asked) -> tuple[Config, EnvFacts, nn.Module]:
    """Residual network of IMPALA with twice the channels."""
    return Config(device=asked.device, learner="torch", threads=1), _ATARI, Impala(width=2)


def _upload(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Measures bytes/s of uploads of image batches, by batch size. None on the CPU."""
    figures = []
    for size in BATCH_SIZES:
        config = Config(device=asked.device, learner="torch", batch_size=size)
        figures += filter(None, [measure_upload(config, _ATARI, asked.effort)])
    yield _shown("upload", figures), True


def _profile(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Profiles an update and an iteration of the loop."""
    folder, rows = asked.out / "profile", []
    for what in ("learn", "train"):
        (folder / what).mkdir(parents=True, exist_ok=True)
        calls = 5 if asked.dry else 50
        rows += [profile_calls(what, _workload(asked), calls, folder / what, asked.effort)]
    yield rows, True


def _train(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Measures training by both clocks."""
    yield _trained(_workload(asked), asked.effort, (False, True)), True


def _atari(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Measures training on Pong for five minutes, with an update per four steps."""
    config = PRESETS["atari-pong"].replace(device=asked.device, prioritized=False)
    if asked.dry:
        config = config.replace(**_TINY | {"threads": 1, "total_timesteps": 100_000})
    else:
        # Twice as many environments as a step waits for, so that none delays the others.
        config = config.replace(num_envs=128, env_batch_size=64, train_frequency=4)
    if importlib.util.find_spec("ale_py") is None:
        yield [{"skipped": "ale-py is not installed: pip install 'fastdqn[atari]'"}], asked.dry
        return
    repeats = 5
    held = Effort(0.05, 1, 0.01) if asked.dry else Effort(_STRETCH_SECONDS / repeats, repeats, 5.0)
    yield _trained(config, held, (False,)), True


def _trained(config: Config, effort: Effort, clocks: tuple[bool, ...]) -> Rows:
    rows, resolved = [], preview(config).config
    with arithmetic(resolved):
        for synchronized in clocks:
            trained = measure_training(resolved, effort, synchronized)
            total = sum(trained.phases.values())
            shares = {name: spent / total for name, spent in trained.phases.items()}
            extra = {"phase_shares": shares, "phase_seconds": trained.phases}
            rows += [row | extra for row in _shown("train", [trained.figure])]
    return rows


def _pong(asked: Asked) -> Iterator[tuple[Rows, bool]]:
    """Trains Pong from pixels until two evaluations reach 18. Returns evaluations so far."""
    if importlib.util.find_spec("ale_py") is None:
        yield [{"skipped": "ale-py is not installed: pip install 'fastdqn[atari]'"}], asked.dry
        return
    folder = asked.out / "pong-run"
    until = time.monotonic() + _STRETCH_SECONDS

    def keep_running(progress, step) -> bool:
        return time.monotonic() < until

    if folder.is_dir():
        run = fastdqn.resume(folder, on_step=keep_running)
    else:
        options = PRESETS["atari-pong"].replace(device=asked.device, run_dir=str(folder))
        run = fastdqn.train(
            options.replace(**_TINY) if asked.dry else options, on_step=keep_running
        )
    evaluations = (folder / "eval.jsonl").read_text().splitlines()
    reason = run.summary["exit_reason"]
    console.print(f"pong: {run.summary['total_steps']:,} steps, {reason}")
    rows = [*map(json.loads, evaluations), {"exit_reason": reason}]
    yield rows, reason != "stopped by on_step"


PARTS: dict[str, Callable[[Asked], Iterator[tuple[Rows, bool]]]] = {
    "parity": _parity,
    "update-mlp": _update(_mlp),
    "update-nature": _update(_nature),
    "update-impala": _update(_impala),
    "upload": _upload,
    "profile": _profile,
    "train": _train,
    "atari": _atari,
    "pong": _pong,
}


def _shown(title: str, figures: list[Figure]) -> Rows:
    console.print(table(title, figures))
    return [figure.row() for figure in figures]


if __name__ == "__main__":
    main_of(main)
