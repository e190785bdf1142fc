"""Whole runs of two processes by torchrun: equal weights, stopped, killed and resumed."""

import contextlib
import functools
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from fastdqn.checkpoints.loader import checkpoint_names
from helpers.ranks import output_of, torchrun, workers_of
from helpers.resumed_runs import assert_same_run

pytestmark = pytest.mark.slow

WORDS = (
    "cartpole", "--total-timesteps", "8000", "--stop-at-return", "1000", "--eval-frequency",
    "4000", "--eval-episodes", "4", "--checkpoint-frequency", "1000", "--prioritized",
    "--hidden-sizes", "32", "--seed", "3", "--resume", "auto",
)  # fmt: skip


def start(folder: Path, *words: str):
    return torchrun("train", *WORDS, "--run-dir", str(folder), *words)


@functools.cache
def whole() -> Path:
    """Returns the folder of a run that was never stopped."""
    folder = Path(tempfile.mkdtemp()) / "whole"
    output = output_of(start(folder))
    assert "budget spent after 8,0" in output, output
    assert output.count("budget spent after") == output.count("run folder: ") // 2 == 1
    return folder


@pytest.fixture(scope="module", autouse=True)
def _removed():
    yield
    if whole.cache_info().currsize:
        shutil.rmtree(whole().parent)


def wait_for(found, process) -> None:
    """Waits until something is there, or the processes end."""
    while not found():
        assert process.poll() is None, output_of(process)
        time.sleep(0.02)


def test_both_ranks_end_at_the_same_step_with_the_same_weights():
    one, other = whole(), whole() / "ranks" / "1"
    assert (one / "policy.safetensors").read_bytes() == (other / "policy.safetensors").read_bytes()
    ours, theirs = (json.loads((each / "summary.json").read_text()) for each in (one, other))
    for name in ("total_steps", "episodes", "updates", "exit_reason"):
        assert ours[name] == theirs[name]
    assert ours["updates"] == (8_000 - 1_000) // 20
    assert checkpoint_names(one) == checkpoint_names(other)
    assert ours["eval"] is not None
    assert theirs["eval"] is None
    assert ours["phase_seconds"]["ranks"] > 0
    assert json.loads((one / "config.json").read_text())["ranks"] == 2


def test_episodes_of_all_ranks_are_recorded_under_the_numbers_of_their_environments():
    lines = (whole() / "episodes.csv").read_text().splitlines()[1:]
    summary = json.loads((whole() / "summary.json").read_text())
    numbers = [int(line.split(",")[0]) for line in lines]
    assert numbers == list(range(1, summary["episodes"] + 1))
    environments = {int(line.split(",")[2]) for line in lines}
    assert min(environments) < 32 <= max(environments) < 64


def test_a_run_whose_rank_was_killed_and_that_was_stopped_resumes_exactly(tmp_path):
    folder = tmp_path / "part"
    process = start(folder)
    wait_for(lambda: len(checkpoint_names(folder / "ranks" / "1")) > 1, process)
    assert_the_other_ends(process, *workers_of(process))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: another rank has ended")
    before = max(checkpoint_names(folder))

    process = start(folder)  # the same command
    wait_for(lambda: max(checkpoint_names(folder)) > before, process)
    process.terminate()
    output = output_of(process)
    assert "resumed from step-" in output, output
    assert "interrupted after" in output, output
    newest = max(checkpoint_names(folder))
    assert newest == max(checkpoint_names(folder / "ranks" / "1"))

    output = output_of(torchrun("resume", str(folder)))
    assert f"resumed from {newest}" in output, output
    assert_same_run(whole(), folder)
    assert_same_run(whole() / "ranks" / "1", folder / "ranks" / "1")


def assert_the_other_ends(process, survivor: int, killed: int) -> None:
    """Kills a rank. The other one ends within seconds, with one line."""
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() - began < 10:
            os.kill(survivor, 0)
            time.sleep(0.02)
    assert time.monotonic() - began < 10
    lines = [line for line in output_of(process).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: another rank has ended or cannot be reached (")
    assert process.returncode == 1
