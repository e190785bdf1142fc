"""Soak test: monitors a long run for slowdowns and leaks.

    python benchmarks/soak.py --minutes 30
    python benchmarks/soak.py --minutes 30 --preset cartpole -- --num-envs 256

Every few seconds it samples steps from metrics.jsonl, and processor time, resident memory, threads
and open descriptors from /proc (Linux). After a minute of warm-up, the first sixth of the samples
is compared with the last. Steps per second of processor time are reported, too, since other
programs affect them little. Arguments after -- are passed to `fastdqn train`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdqn.bench.machine_info import describe_machine
from fastdqn.files.atomic_write import write_whole
from harness import count, fail, writable
from seeds import split

WARM_UP_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cartpole", help="preset to train")
    parser.add_argument("--minutes", type=count, default=30, help="duration")
    parser.add_argument("--every", type=count, default=10, help="seconds between samples")
    parser.add_argument("--out", type=writable, help="JSON file for the results")
    own, extra = split(sys.argv[1:])
    args = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(args, Path(folder, "run"), extra)
    kept = [look for look in looks if look["seconds"] >= WARM_UP_SECONDS]
    if len(kept) < 6:
        fail(f"the run ended after {looks[-1]['seconds'] if looks else 0:.0f} s: too few samples")
    report = summary(kept)
    for name, value in report.items():
        print(f"{name:>28}  {value}")
    if args.out:
        command = " ".join(["python benchmarks/soak.py", *sys.argv[1:]])
        record = {"command": command, "machine": describe_machine("cpu", None), **report}
        write_whole(args.out, json.dumps({**record, "looks": looks}, indent=1) + "\n")


def watch(args: argparse.Namespace, run: Path, extra: list[str]) -> list[dict[str, float]]:
    """Trains for --minutes minutes and samples the process. Returns the samples."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdqn", "train", args.preset, "--run-dir", str(run), "--quiet",
         "--total-timesteps", str(10**12), "--stop-at-return", "None", "--log-frequency", "50000",
         "--exploration-fraction", "1e-7", *extra],
    )  # fmt: skip
    looks, began = [], time.monotonic()
    try:
        while time.monotonic() - began < 60 * args.minutes and process.poll() is None:
            time.sleep(args.every)
            looks += look(process.pid, run, time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return looks


def look(pid: int, run: Path, seconds: float) -> list[dict[str, float]]:
    """Returns one sample, or none if the run has no metrics yet or has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        # The last line may be incomplete.
        rows = (run / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # the process may end between two reads
        return []
    if not rows or "VmRSS" not in status:  # a process that has ended has no VmRSS
        return []
    return [{
        "seconds": round(seconds, 1), "steps": json.loads(rows[-1])["step"],
        "processor_seconds": (int(fields[11]) + int(fields[12])) / TICKS,
        "resident_mib": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]), "descriptors": descriptors,
    }]  # fmt: skip


def summary(looks: list[dict[str, float]]) -> dict[str, Any]:
    """Compares the first sixth of the samples with the last."""
    sixth = max(2, len(looks) // 6)
    first, last = looks[:sixth], looks[-sixth:]

    def both(figure: Callable[[list[dict[str, float]]], float]) -> list[float]:
        return [round(figure(first), 2), round(figure(last), 2)]

    return {
        "steps": looks[-1]["steps"],
        "minutes": round(looks[-1]["seconds"] / 60, 1),
        "steps_per_second": both(lambda part: rate(part, "seconds")),
        "steps_per_processor_second": both(lambda part: rate(part, "processor_seconds")),
        **{
            name: both(lambda part, name=name: statistics.median(each[name] for each in part))
            for name in ("resident_mib", "threads", "descriptors")
        },
    }


def rate(looks: list[dict[str, float]], per: str) -> float:
    return (looks[-1]["steps"] - looks[0]["steps"]) / (looks[-1][per] - looks[0][per])


if __name__ == "__main__":
    main()
