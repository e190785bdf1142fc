"""What is worth measuring on a GPU, in parts of at most 8 minutes, with no network.

    python benchmarks/gpu_suite.py --out benchmarks/results/gpu            # every part
    python benchmarks/gpu_suite.py --part update --out benchmarks/results/gpu
    python benchmarks/gpu_suite.py --dry-run --out /tmp/gpu                # the CPU, tiny sizes

A part that has its file in --out already is left out, so a suite that was cut goes on where it
was. Each file has the machine in it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import console, fail, main_of

from fastdqn.config import Config
from fastdqn.measure.figures import Figure, table
from fastdqn.measure.learning import measure_learner, measure_upload
from fastdqn.measure.machine import describe_machine
from fastdqn.measure.profile import profile_calls
from fastdqn.measure.repeat import Effort
from fastdqn.measure.training import measure_training
from fastdqn.presets import PRESETS
from fastdqn.record.files import to_json, write_whole
from fastdqn.resolve import preview

BATCH_SIZES = (32, 128, 512, 2048)
# Layers wide enough that a GPU has something to do.
_WIDE = (1024, 1024)


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--part", choices=list(PARTS), help="one part; left out: all")
    asked.add_argument("--out", type=Path, required=True, help="folder for the files")
    asked.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    args = asked.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        fail("this machine has no CUDA device: --dry-run walks through every part on the CPU")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {args.out}: {error.strerror}")
    for name in [args.part] if args.part else PARTS:
        file = args.out / f"{name}.json"
        if file.exists() and json.loads(file.read_text())["dry_run"] == args.dry_run:
            console.print(f"{name}: {file} is there already")
            continue
        began = time.perf_counter()
        rows = PARTS[name](_config(args.dry_run), _effort(args.dry_run), args.out)
        seconds = time.perf_counter() - began
        config, _ = preview(_config(args.dry_run))
        machine = describe_machine(config.device, config.threads)
        record = {"part": name, "dry_run": args.dry_run, "seconds": seconds, "machine": machine}
        write_whole(file, to_json({**record, "rows": rows}, indent=1) + "\n")
        console.print(f"{name}: {seconds:.0f} s, {file}")


def _config(dry_run: bool) -> Config:
    """Workload C with wide layers, or with its own on the CPU."""
    config = PRESETS["cartpole-cleanrl"].replace(num_envs=64)
    if dry_run:
        return config.replace(device="cpu", batch_size=32)
    return config.replace(device="cuda", hidden_sizes=_WIDE)


def _effort(dry_run: bool) -> Effort:
    return Effort(0.01, 2, 0.01) if dry_run else Effort(0.5, 5, 1.0)


def _update(config: Config, effort: Effort, out: Path) -> list[dict[str, Any]]:
    """Eager and compiled updates over batch sizes, wall time and device events."""
    dry = config.device == "cpu"
    figures: list[Figure] = []
    for capture in ("eager",) if dry else ("eager", "compile"):
        resolved, facts = preview(config.replace(capture=capture))
        figures += measure_learner(resolved, facts, BATCH_SIZES[:2] if dry else BATCH_SIZES, effort)
    return _shown("update", figures)


def _upload(config: Config, effort: Effort, out: Path) -> list[dict[str, Any]]:
    """Bytes/s of a batch to the device, by size; nothing is uploaded on the CPU."""
    figures = []
    for size in BATCH_SIZES:
        resolved, facts = preview(config.replace(batch_size=size))
        figures += filter(None, [measure_upload(resolved, facts, effort)])
    return _shown("upload", figures)


def _profile(config: Config, effort: Effort, out: Path) -> list[dict[str, Any]]:
    """Launches, gaps, achieved shares and verdict of an update."""
    folder = out / "profile"
    folder.mkdir(exist_ok=True)
    return [profile_calls("learn", config, 5 if config.device == "cpu" else 50, folder, effort)]


def _train(config: Config, effort: Effort, out: Path) -> list[dict[str, Any]]:
    """End to end, by both clocks."""
    rows = []
    for synchronised in (False, True):
        trained = measure_training(preview(config)[0], effort, synchronised)
        rows += [
            row | {"phase_seconds": trained.phases} for row in _shown("train", [trained.figure])
        ]
    return rows


PARTS: dict[str, Callable[[Config, Effort, Path], list[dict[str, Any]]]] = {
    "update": _update,
    "upload": _upload,
    "profile": _profile,
    "train": _train,
}


def _shown(title: str, figures: list[Figure]) -> list[dict[str, Any]]:
    console.print(table(title, figures))
    return [figure.row() for figure in figures]


if __name__ == "__main__":
    main_of(main)
