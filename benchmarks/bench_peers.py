"""Compares the speed of fastdqn and other DQN trainers at the same workload, in turns.

    python benchmarks/bench_peers.py --out benchmarks/results/peers.json
    python benchmarks/bench_peers.py --workloads C --peers fastdqn sbx-8 --repeats 5
    python benchmarks/bench_peers.py --python rejax=/other/venv/bin/python
    PUREJAXRL=/a/checkout python benchmarks/bench_peers.py --peers fastdqn purejaxrl

Needs `pip install -e '.[peers]'`. Peers that are not installed are left out. purejaxrl has no
package: PUREJAXRL names a checkout of https://github.com/luchris429/purejaxrl. Workload C
is CleanRL's dqn.py on CartPole-v1: MLP 120-84 with ReLU, plain DQN, mean squared error, no
gradient clipping, Adam 2.5e-4, batch 128, an update per 10 environment steps, replay buffer
10,000, target network update every 500 steps, epsilon 1 to 0.05 over 250k steps. D is the same
with batch 512 and an update per 64 steps.

Each measurement is a new process, with --threads threads for every library. It times a window of
--steps steps, which starts 2,160 steps after learning started at step 10,000. This is an early
part of the workload, with a high epsilon and short episodes. It favors Stable-Baselines3 and SBX,
which do not run the network for a random action. Everything before the window is warm-up:
interpreter, imports, compilation, first updates. No library logs.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdqn.bench.machine_info import commit, machine
from fastdqn.config.schema import unknown_name
from fastdqn.files.atomic_write import WriteError, to_json, write_whole
from peers import launch, report
from peers.catalogue import PEERS
from peers.workload import ALIGNED_STEPS, START_STEPS, WORKLOADS

# Packages whose versions are recorded, besides those of the peers.
_BENEATH = ("fastdqn", "torch", "jax", "jaxlib", "optax", "flax", "gymnasium", "numpy", "numba")

Key = tuple[str, str]  # workload, peer


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        args, extra = parser().parse_known_args(words)
    except argparse.ArgumentError as error:
        return _refuse([str(error)])
    pythons = dict(pair.partition("=")[::2] for pair in args.python)
    if lines := mistakes(args, extra, pythons):
        return _refuse(lines)
    args.peers, args.workloads = (
        list(dict.fromkeys(args.peers)),
        list(dict.fromkeys(args.workloads)),
    )
    steps = -(-args.steps // ALIGNED_STEPS) * ALIGNED_STEPS
    try:
        versions, skipped = find_peers(args.peers, pythons)
    except launch.LaunchError as error:
        return _refuse([str(error)])
    for line in skipped.values():
        print(line)
    peers = [peer for peer in args.peers if peer not in skipped]
    if not peers:
        return _refuse(["nothing to measure: pip install -e '.[peers]'"])
    keys = [(workload, peer) for workload in args.workloads for peer in peers]
    measured, failed = run_rounds(keys, args, steps, pythons)
    results = collect(args.workloads, measured)
    wrong = report.problems(results, args.threads)
    print(report.table(results))
    print("\n".join(["", *wrong]) if wrong else "\nsamples per step: correct for all peers")
    if args.out:
        record = {
            "header": header(words, args.threads, steps, versions),
            "results": results,
            "skipped": skipped,
            "failed": failed,
            "problems": wrong,
        }
        try:
            write_whole(args.out, to_json(record, indent=1) + "\n")
        except WriteError as error:
            return _refuse([str(error)])
    return 1 if failed or wrong else 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], exit_on_error=False, allow_abbrev=False
    )
    add = parser.add_argument
    add("--workloads", nargs="+", default=list(WORKLOADS), help=" ".join(WORKLOADS))
    add("--peers", nargs="+", default=list(PEERS), help=" ".join(PEERS))
    add("--repeats", type=int, default=3, help="number of rounds over all peers")
    # About 20 s for the slowest peer, at 2,300 steps/s.
    add(
        "--steps",
        type=int,
        default=51_200,
        help=f"steps of a window, a multiple of {ALIGNED_STEPS}",
    )
    add("--threads", type=int, default=1, help="threads of each library")
    add("--seed", type=int, default=1, help="seed of the first round; later rounds count up")
    add("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of a peer")
    add("--out", type=Path, help="JSON file for the results")
    return parser


def mistakes(args: argparse.Namespace, extra: list[str], pythons: dict[str, str]) -> list[str]:
    """Returns all errors in the options, one line each."""
    lines = [f"unexpected argument {word!r}" for word in extra]
    lines += [unknown_name("workload", name, WORKLOADS) for name in args.workloads
              if name not in WORKLOADS]  # fmt: skip
    lines += [unknown_name("peer", name, PEERS) for name in [*args.peers, *pythons]
              if name not in PEERS]  # fmt: skip
    for name in ("repeats", "steps", "threads"):
        if (value := getattr(args, name)) < 1:
            lines.append(f"--{name} is {value}: it must be at least 1")
    lines += [f"--python is {peer!r}: it must be PEER=PATH" for peer, path in pythons.items()
              if not path]  # fmt: skip
    if args.out and (problem := unwritable(args.out)):
        lines.append(problem)
    return lines


def unwritable(path: Path) -> str | None:
    """Returns why a file cannot be written, or None. Checked before measuring."""
    if path.is_dir():
        return f"--out {path} is a folder: give a file"
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return None
    except OSError as error:
        return f"--out {path}: {error.strerror}"


def find_peers(
    peers: list[str], pythons: dict[str, str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Returns versions by interpreter, and a line for each peer that is not installed."""
    found: dict[str, dict[str, str]] = {}
    skipped = {}
    wanted = dict.fromkeys([*_BENEATH, *(d for peer in PEERS.values() for d in peer.distributions)])
    for peer in peers:
        python = interpreter(peer, pythons)
        if python not in found:
            found[python] = launch.versions(python, wanted)
        lacking = [name for name in PEERS[peer].distributions if name not in found[python]]
        if lacking:
            skipped[peer] = f"{peer}: left out, {' and '.join(lacking)} not installed"
        elif (variable := PEERS[peer].checkout) and not os.environ.get(variable):
            skipped[peer] = f"{peer}: left out, {variable} names no checkout"
    return found, skipped


def interpreter(peer: str, pythons: dict[str, str]) -> str:
    # Not resolved: the python of a virtual environment is a link, and its path selects it.
    return os.path.abspath(pythons[peer]) if peer in pythons else sys.executable


def run_rounds(
    keys: list[Key], args: argparse.Namespace, steps: int, pythons: dict[str, str]
) -> tuple[dict[Key, list[dict[str, Any]]], dict[str, str]]:
    """Measures all keys in turns, --repeats times, so that drift affects all of them alike.

    Returns:
        The measurements, and the errors of peers that failed, by 'workload peer'. A failed peer
        is not repeated.
    """
    measured: dict[Key, list[dict[str, Any]]] = {key: [] for key in keys}
    failed: dict[str, str] = {}
    for round_number in range(args.repeats):
        for workload, peer in keys:
            label = f"{workload} {peer}"
            if label in failed:
                continue
            try:
                result = launch.measure(
                    interpreter(peer, pythons),
                    peer,
                    workload,
                    steps=steps,
                    threads=args.threads,
                    seed=args.seed + round_number,
                )
            except launch.LaunchError as error:
                failed[label] = str(error)
                print(f"{label}: failed: {error}", flush=True)
                continue
            measured[workload, peer].append(result)
            print(
                f"round {round_number + 1}  {label:12} {result['steps_per_second']:9,.0f} steps/s",
                flush=True,
            )
    return measured, failed


def collect(
    workloads: list[str], measured: dict[Key, list[dict[str, Any]]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns rows by workload and peer, with ratios. A peer without measurements has no row."""
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in workloads}
    for (workload, peer), repeats in measured.items():
        if repeats:
            results[workload][peer] = report.summarize(peer, WORKLOADS[workload], repeats)
    for rows in results.values():
        report.add_ratios(rows)
    return results


def header(
    words: list[str], threads: int, steps: int, versions: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Returns the header: command, commit, machine, versions and settings."""
    kept = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    checkouts = {peer: os.environ.get(each.checkout) for peer, each in PEERS.items()
                 if each.checkout}  # fmt: skip
    return {
        "command": shlex.join(["python", "benchmarks/bench_peers.py", *words]),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions,
        "checkouts": {peer: commit_of(path) for peer, path in checkouts.items() if path},
        "threads": threads,
        "environment": {
            **launch.thread_settings(threads),
            **{name: os.environ[name] for name in kept if name in os.environ},
        },
        "window": {"start_steps": START_STEPS, "steps": steps},
        "workloads": {name: vars(workload) for name, workload in WORKLOADS.items()},
    }


def commit_of(checkout: str) -> str | None:
    """Returns the commit of a checkout, or None."""
    words = ["git", "-C", checkout, "rev-parse", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def _refuse(lines: list[str]) -> int:
    print("\n".join(lines), file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        sys.exit(130)
