"""Environment benchmark: steps/s of each vectorization, with random actions.

    python benchmarks/bench_env.py --envs CartPole-v1 Acrobot-v1 --num-envs 8 64
    python benchmarks/bench_env.py --part workers --workers 2
    python benchmarks/bench_env.py --part peers --workers 2
    python benchmarks/bench_env.py --part compiled
    python benchmarks/bench_env.py --part runs --num-envs 64

speed: each vectorization alone.
workers: `workers` next to `sync` and `async`, in turns, and the cost of a step of an environment
that does nothing.
peers: the same next to the worker processes of other libraries.
compiled: compiled environments next to `SyncVectorEnv` with their Python forms, in turns.
runs: whole runs of `fastdqn train` with `sync` and `workers` in turns, of equal settings.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import env_compiled
import env_peers
from fastdqn.bench.env_speed import LANES, measure_envs
from fastdqn.bench.repeats import by_turns
from fastdqn.bench.results import Figure
from fastdqn.envs import EnvRecipe
from harness import console, count, effort_of, fail, main_of, parser, save, show

# The most environments in a Python loop that are measured next to compiled ones.
_MOST_PYTHON = 256
# Environments of the parts `workers` and `peers`, and of `runs`.
_COMPARED, _TRAINED = ("LunarLander-v3", "CartPole-v1"), "LunarLander-v3"


class Empty(gymnasium.Env):
    """Environment that returns constants, so that a step costs what steps it."""

    observation_space = spaces.Box(-1, 1, (8,), np.float32)
    action_space = spaces.Discrete(4)
    obs = np.zeros(8, np.float32)

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, 1.0, False, False, {}


def main() -> None:
    args = _parser().parse_args()
    parts = {
        "speed": _speed, "workers": _workers, "peers": _peers, "compiled": _compiled, "runs": _runs,
    }  # fmt: skip
    rows = list(parts[args.part](args))
    save(args, rows, threads=None, versions=_versions())


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument(
        "--part", choices=("speed", "workers", "peers", "compiled", "runs"), default="speed",
        help="what to measure",
    )  # fmt: skip
    made.add_argument("--envs", nargs="+", help="environment ids of `speed`, `workers` and `peers`")
    made.add_argument("--num-envs", type=count, nargs="+", help="numbers of environments")
    made.add_argument("--workers", type=count, default=2, help="worker processes")
    made.add_argument("--steps", type=count, default=30_000, help="steps of each of the `runs`")
    return made


def _speed(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    for env_id in args.envs or ["CartPole-v1", "Acrobot-v1"]:
        figures = list(
            measure_envs(
                EnvRecipe(env_id), args.num_envs or list(LANES), effort_of(args), time.perf_counter
            )
        )
        yield from ({"env_id": env_id, **row} for row in show(env_id, figures))


def _workers(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    for env_id in [*(args.envs or _COMPARED), "an empty environment"]:
        for num_envs in args.num_envs or [64]:
            env: Any = Empty if env_id == "an empty environment" else env_id
            made = {name: env_peers.stream(env, num_envs, name) for name in ("sync", "async")}
            made["workers"] = env_peers.stream(env, num_envs, "workers", args.workers)
            if args.workers % 2 == 0 and num_envs % args.workers == 0:
                made["double buffering"] = env_peers.stream(
                    env, num_envs, "workers", args.workers, halves=True
                )
            yield from _in_turns(args, env_id, num_envs, made)


def _peers(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """One after another, since the idle processes of some poll and would slow the others."""
    for env_id in args.envs or _COMPARED:
        for num_envs in args.num_envs or [64]:
            for name, make in env_peers.PEERS.items():
                try:
                    made = {name: make(env_id, num_envs, args.workers)}
                except ImportError:
                    console.print(f"{name}: not installed")
                    yield {"env_id": env_id, "num_envs": num_envs, "of": name, "installed": False}
                else:
                    yield from _in_turns(args, env_id, num_envs, made)


def _compiled(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    env_compiled.register_lift()
    for env_id in args.envs or env_compiled.PAIRS:
        for num_envs in args.num_envs or [64, 4096]:
            made = {"compiled": env_compiled.compiled(env_id, num_envs)}
            if num_envs <= _MOST_PYTHON:
                made["sync"] = env_compiled.python(env_id, num_envs)
            if env_id == "CartPole-v1":
                made["native"] = env_compiled.native(num_envs)
            yield from _in_turns(args, env_id, num_envs, made)


def _in_turns(
    args: argparse.Namespace, env_id: str, num_envs: int, made: dict[str, env_peers.Stepped]
) -> Iterable[dict[str, Any]]:
    """Measures streams of the same environment in turns, and ends their processes."""
    rates = by_turns({name: each.call for name, each in made.items()}, effort_of(args))
    for each in made.values():
        each.close()
    figures = [
        Figure("env", "env_steps_per_second", rate, {"of": name, "num_envs": num_envs})
        for name, rate in rates.items()
    ]
    of_workers = f", {args.workers} workers" if "workers" in made else ""
    for row in show(f"{env_id}{of_workers}", figures):
        microseconds = 1e6 / row["env_steps_per_second"]
        yield {"env_id": env_id, "workers": args.workers, "us_per_env_step": microseconds, **row}


def _runs(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    for num_envs in args.num_envs or [64]:
        of: dict[str, list[tuple[float, str]]] = {"sync": [], "workers": []}
        for _ in range(args.repeats):
            for name, runs in of.items():
                more = ["--workers", str(args.workers)] if name == "workers" else []
                runs.append(_run([name, *more], num_envs, args.steps))
        if len({digest for runs in of.values() for _, digest in runs}) > 1:
            fail("the weights differ between runs of equal seeds")
        ratio = statistics.median(
            workers / sync
            for (workers, _), (sync, _) in zip(of["workers"], of["sync"], strict=True)
        )
        row = {
            "env_id": _TRAINED, "num_envs": num_envs, "worker_processes": args.workers,
            "steps": args.steps, "ratio": ratio,
            **{name: [speed for speed, _ in runs] for name, runs in of.items()},
        }  # fmt: skip
        console.print(
            f"{num_envs} environments: workers is {ratio:.2f} times as fast as sync {row}"
        )
        yield row


def _run(vectorization: list[str], num_envs: int, steps: int) -> tuple[float, str]:
    """Trains in a process of its own. Returns steps/s and a digest of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "train", _TRAINED, "--vectorization", *vectorization, "--num-envs", str(num_envs),
            "--total-timesteps", str(steps), "--eval-frequency", "0", "--run-dir", f"{folder}/run",
            "--threads", "1", "--quiet",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "fastdqn", *words], check=True)
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
        weights = Path(folder, "run", "policy.safetensors").read_bytes()
    return summary["steps_per_second"], hashlib.sha256(weights).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in env_peers.VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main_of(main)
