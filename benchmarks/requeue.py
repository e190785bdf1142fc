"""Kills `fastdqn train --resume auto` at random times and restarts it, as a cluster does.

    python benchmarks/requeue.py --kills 100

The process gets SIGKILL or SIGTERM during start-up, before the first checkpoint, while it resumes,
and while it trains and writes. Every other start has a different host name if the system allows
it (unshare --uts, as root). The files of each finished run must equal those of an uninterrupted
run byte for byte. Then the next run starts.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import fail

_SAME = ("policy.safetensors", "best.safetensors", "episodes.csv", "eval.jsonl")
_OPTIONS = (
    "--total-timesteps", "20000", "--stop-at-return", "None", "--eval-frequency", "5000",
    "--eval-episodes", "5", "--checkpoint-frequency", "500", "--checkpoint-seconds", "None",
    "--seed", "3", "--threads", "1", "--quiet",
)  # fmt: skip
# SIGTERM ends a run with exit code 130, or kills the process before its handler is installed.
_EXPECTED = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {130, -signal.SIGTERM}}


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--kills", type=int, default=100, help="number of kills")
    asked.add_argument("--seed", type=int, default=0, help="seed of the random times")
    args = asked.parse_args()
    chance, counts = random.Random(args.seed), collections.Counter[str]()
    renames = _can_rename()
    with tempfile.TemporaryDirectory() as folder:
        whole, run = Path(folder, "whole"), Path(folder, "run")
        if _start(whole).wait() != 0:
            fail("the uninterrupted run failed")
        starts = 0
        while counts["kills"] < args.kills:
            starts += 1
            host = f"host-{starts}" if renames and starts % 2 else None
            process = _start(run, host)
            if _killed(process, run, chance, counts):
                counts["kills"] += 1
                counts["host_renamed"] += host is not None
            else:
                _compare(whole, run)
                counts["finished_equal"] += 1
                shutil.rmtree(run)
            if counts["kills"] % 20 == 0:
                print(json.dumps(counts), flush=True)
        if _start(run).wait() != 0:
            fail("the last start failed")
        _compare(whole, run)
        counts["finished_equal"] += 1
        if _start(run).wait() != 0:
            fail("restarting a finished run failed")
        _compare(whole, run)
    print(f"{json.dumps(counts)}\nall runs equal an uninterrupted one: {', '.join(_SAME)}")


def _killed(
    process: subprocess.Popen, run: Path, chance: random.Random, counts: collections.Counter[str]
) -> bool:
    """Kills the process at a random time. Returns whether it was killed before it finished."""
    before = _latest(run)
    # These sleeps choose a random time to kill. Most kills of a new run are early, since few would
    # otherwise come before its first checkpoint.
    if chance.random() < (0.5 if before else 0.8):
        time.sleep(chance.random() * 2.5)
    else:
        _wait_for_progress(process, run, before)
        time.sleep(chance.random() * 0.02)
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    process.send_signal(number)
    after = _latest(run)
    code = process.wait()
    if code == 0:
        return False
    if code not in _EXPECTED[number]:
        fail(f"kill {counts['kills'] + 1}: the run failed before it, with exit code {code}")
    moment = "training" if after != before else "going_on" if before else "before_checkpoint"
    counts[moment] += 1
    counts[number.name] += 1
    return True


def _wait_for_progress(process: subprocess.Popen, run: Path, before: str) -> None:
    while process.poll() is None and _latest(run) == before:
        time.sleep(0.002)


def _latest(run: Path) -> str:
    try:
        return (run / "checkpoints" / "latest").read_text()
    except FileNotFoundError:
        return ""


def _compare(whole: Path, run: Path) -> None:
    for name in _SAME:
        if (whole / name).read_bytes() != (run / name).read_bytes():
            fail(f"{name} differs from that of an uninterrupted run")
    if left := [name for name in os.listdir(run) if name == "lock" or name.startswith(".")]:
        fail(f"a finished run left {', '.join(left)}")


def _can_rename() -> bool:
    if shutil.which("unshare") is None or shutil.which("hostname") is None:
        return False
    command = ["unshare", "--uts", "hostname", "elsewhere"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _start(run: Path, host: str | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastdqn", "train", "cartpole", *_OPTIONS]
    command += ["--run-dir", str(run), "--resume", "auto"]
    if host is not None:  # exec: the shell is replaced, so that signals reach the run
        command = ["unshare", "--uts", "sh", "-c", f'hostname {host}; exec "$@"', "sh", *command]
    return subprocess.Popen(command)


if __name__ == "__main__":
    main()
