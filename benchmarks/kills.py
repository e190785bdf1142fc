"""Kills a run at random times and resumes it, and checks that nothing is lost.

    python benchmarks/kills.py --kills 200

A run that writes a checkpoint every 2,000 steps is repeatedly killed with SIGKILL and resumed.
After each kill the latest checkpoint must load, including the rows of the replay buffer, and must
not be older than the previous one. Finally the run is resumed to its end. Its weights must equal
those of an uninterrupted run byte for byte.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastdqn.checkpoints.loader import load_checkpoint
from harness import fail

_OPTIONS = (
    "--seed", "3", "--stop-at-return", "None", "--eval-frequency", "0", "--eval-episodes", "5",
    "--checkpoint-frequency", "2000", "--checkpoint-seconds", "None", "--quiet",
)  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--kills", type=int, default=200, help="number of kills")
    asked.add_argument(
        "--steps-per-kill", type=int, default=20_000, help="steps of the run per kill"
    )
    asked.add_argument("--seed", type=int, default=0, help="seed of the random times")
    args = asked.parse_args()
    times = random.Random(args.seed)
    total = ["--total-timesteps", str(args.kills * args.steps_per_kill)]
    with tempfile.TemporaryDirectory() as folder:
        run, killed, steps = Path(folder, "run"), 0, 0
        train = ["train", "cartpole", *total, *_OPTIONS, "--run-dir"]
        while killed < args.kills:
            words = ["resume", str(run), "--quiet"] if steps else [*train, str(run)]
            process = _start(words)
            wait_for_progress(process, run, steps)
            time.sleep(times.random() * 0.2)  # a random time to kill, not a synchronization
            process.kill()
            code = process.wait()
            if code == 0:
                print("the run finished before it was killed: increase --steps-per-kill")
                break
            if code != -signal.SIGKILL:
                fail(f"kill {killed + 1}: the run failed before it, with exit code {code}")
            killed += 1
            found = load_checkpoint(run)
            sum(len(rows.columns["action"]) for rows in found.segments())
            if found.steps < steps:
                fail(f"kill {killed}: the checkpoint at {found.steps} is older than {steps}")
            steps = found.steps
        print(f"{killed} kills, nothing lost, {steps:,} steps so far", flush=True)
        if _start(["resume", str(run), "--quiet"]).wait() != 0:
            fail("the last resume failed")
        whole = Path(folder, "whole")
        if _start([*train, str(whole)]).wait() != 0:
            fail("the uninterrupted run failed")
        if (run / "policy.safetensors").read_bytes() != (whole / "policy.safetensors").read_bytes():
            fail("the weights differ from those of an uninterrupted run")
        print("the weights equal those of an uninterrupted run")


def wait_for_progress(process: subprocess.Popen, run: Path, steps: int) -> None:
    """Waits for a checkpoint newer than steps, or for the end of the process."""
    latest, known = run / "checkpoints" / "latest", f"step-{steps:012d}"
    while process.poll() is None:
        if latest.exists() and latest.read_text().strip() > known:
            return
        time.sleep(0.002)


def _start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "fastdqn", *words])


if __name__ == "__main__":
    main()
