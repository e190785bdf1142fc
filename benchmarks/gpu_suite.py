"""What is worth measuring on a GPU, in parts of at most 8 minutes, with no network.

    python benchmarks/gpu_suite.py --out benchmarks/results/gpu            # every part
    python benchmarks/gpu_suite.py --part update --out benchmarks/results/gpu
    python benchmarks/gpu_suite.py --dry-run --out /tmp/gpu                # the CPU, tiny sizes

A part that has its file in --out already is left out, so a suite that was cut goes on where it
was. Each file has the machine in it. The part pong needs the extra atari; it trains for some
minutes at a time and goes on from its checkpoint each time it is asked, until it is solved.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import console, fail, main_of

import fastdqn
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
# Of one stretch of Pong; its last evaluation comes on top.
_PONG_SECONDS = 300.0
_TINY_PONG = {
    "total_timesteps": 80, "learning_starts": 40, "buffer_size": 400, "num_envs": 4,
    "eval_frequency": 0, "stop_at_return": None, "eval_episodes": 1, "eval_max_steps": 4,
}  # fmt: skip


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
        if file.exists() and _is_over(json.loads(file.read_text()), args.dry_run):
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


def _is_over(record: dict[str, Any], dry_run: bool) -> bool:
    return record["dry_run"] == dry_run and record["rows"][-1:] != [_GOES_ON]


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


_GOES_ON = {"exit_reason": "stopped by on_step"}


def _pong(config: Config, effort: Effort, out: Path) -> list[dict[str, Any]]:
    """Pong from pixels until two evaluations reach 18: its evaluations so far, and why it ended."""
    folder, dry = out / "pong-run", config.device == "cpu"
    until = time.monotonic() + _PONG_SECONDS

    def goes_on(progress, step) -> bool:
        return time.monotonic() < until

    if folder.is_dir():
        run = fastdqn.resume(folder, on_step=goes_on)
    else:
        options = PRESETS["atari-pong"].replace(device=config.device, run_dir=str(folder))
        run = fastdqn.train(options.replace(**_TINY_PONG) if dry else options, on_step=goes_on)
    evaluations = (folder / "eval.jsonl").read_text().splitlines()
    console.print(f"pong: {run.summary['total_steps']:,} steps, {run.summary['exit_reason']}")
    return [*map(json.loads, evaluations), {"exit_reason": run.summary["exit_reason"]}]


PARTS: dict[str, Callable[[Config, Effort, Path], list[dict[str, Any]]]] = {
    "update": _update,
    "upload": _upload,
    "profile": _profile,
    "train": _train,
    "pong": _pong,
}


def _shown(title: str, figures: list[Figure]) -> list[dict[str, Any]]:
    console.print(table(title, figures))
    return [figure.row() for figure in figures]


if __name__ == "__main__":
    main_of(main)
