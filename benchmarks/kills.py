"""Kill a run at random moments, again and again, and see that nothing is ever lost.

    python benchmarks/kills.py --kills 200

A run that writes a checkpoint every 2,000 steps is killed with SIGKILL, resumed, killed, and so
on. After each kill the latest checkpoint must load, rows of the replay included, and be no older
than the one before; at the end the run is resumed to its end, and its weights must be those of a
run that was never killed, byte for byte.
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
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--steps-per-kill", type=int, default=20_000)
    asked.add_argument("--seed", type=int, default=0, help="of the moments")
    args = asked.parse_args()
    moments = random.Random(args.seed)
    total = ["--total-timesteps", str(args.kills * args.steps_per_kill)]
    with tempfile.TemporaryDirectory() as folder:
        run, killed, steps = Path(folder, "run"), 0, 0
        train = ["train", "cartpole", *total, *_OPTIONS, "--run-dir"]
        while killed < args.kills:
            words = ["resume", str(run), "--quiet"] if steps else [*train, str(run)]
            process = _start(words)
            wait_for_progress(process, run, steps)
            time.sleep(moments.random() * 0.2)  # the moment is the point, not a synchronisation
            process.kill()
            code = process.wait()
            if code == 0:
                print("the run ended by itself: more --steps-per-kill")
                break
            if code != -signal.SIGKILL:
                fail(f"kill {killed + 1}: the run had failed before it, with code {code}")
            killed += 1
            found = load_checkpoint(run)
            sum(len(rows.columns["action"]) for rows in found.segments())
            if found.steps < steps:
                fail(f"kill {killed}: the checkpoint at {found.steps} is older than {steps}")
            steps = found.steps
        print(f"{killed} kills, none lost; {steps:,} steps so far", flush=True)
        if _start(["resume", str(run), "--quiet"]).wait() != 0:
            fail("the last resume failed")
        whole = Path(folder, "whole")
        if _start([*train, str(whole)]).wait() != 0:
            fail("the run that is never killed failed")
        if (run / "policy.safetensors").read_bytes() != (whole / "policy.safetensors").read_bytes():
            fail("the weights are not those of a run that was never killed")
        print("and the weights are those of a run that was never killed")


def wait_for_progress(process: subprocess.Popen, run: Path, steps: int) -> None:
    """Until a checkpoint newer than steps is whole, or the process ends."""
    latest, known = run / "checkpoints" / "latest", f"step-{steps:012d}"
    while process.poll() is None:
        if latest.exists() and latest.read_text().strip() > known:
            return
        time.sleep(0.002)


def _start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "fastdqn", *words])


if __name__ == "__main__":
    main()
