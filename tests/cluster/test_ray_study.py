"""fastdqn train --seeds with --ray: options, refusals, and drivers that are killed.

FASTDQN_KILLS=20 sets how often the driver is killed.
"""

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdqn.cluster import connection
from fastdqn.study.study_folder import summary_of
from helpers.clusters import run_processes, saved, session_of, wait_until
from helpers.command_line import ask
from helpers.studies import TINY, whole

KILLS = int(os.environ.get("FASTDQN_KILLS", "2"))
storage = pytest.mark.parametrize("storage", ["shared", "copied"])
# As `python -m fastdqn`, with storage that counts as not shared if the first word says so.
_PROGRAM = """
import functools, sys
from fastdqn.cluster import ray_scheduler
if sys.argv.pop(1) == "copied":
    ray_scheduler.RayScheduler = functools.partial(ray_scheduler.RayScheduler, shared=False)
from fastdqn.__main__ import main
sys.exit(main())
"""


def refused(*words: str) -> list[str]:
    code, out, lines = ask("train", "cartpole", *words)
    assert (code, out) == (2, "")
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--ray local", "--ray needs seeds: add --seeds 1-5"),
        ("--ray local --ray-cpus 2", "--ray needs seeds: add --seeds 1-5"),
        ("--ray-cpus 2", "--ray-cpus needs a cluster: add --ray local, auto or HOST:PORT"),
        ("--seeds 1 --ray-cpus 2 --ray-gpus 1", "--ray-cpus and --ray-gpus need a cluster: add "
         "--ray local, auto or HOST:PORT"),
        ("--seeds 1 --ray local --ray-cpus 0", "ray_cpus is 0: it must be a number from 1 to "
         "4,096"),
        ("--seeds 1 --ray local --ray-cpus 0.5", "--ray-cpus is '0.5': it must be a whole number"),
        ("--seeds 1 --ray local --ray-gpus 1.5", "ray_gpus is 1.5: it must be a part of one GPU, "
         "from 0 to 1, or a whole number up to 1,024"),
        ("--seeds 1 --ray local --ray-gpus nan", "ray_gpus is nan: it must be a part of one GPU, "
         "from 0 to 1, or a whole number up to 1,024"),
        ("--seeds 1 --vs '--ray local'", '--vs "--ray local": --ray is an option of the whole '
         "study"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(in_an_empty_folder, words, says):
    assert refused(*shlex.split(words)) == [says]
    assert list(Path().iterdir()) == []


def test_without_ray_a_line_says_what_to_install(in_an_empty_folder, monkeypatch):
    monkeypatch.setattr(connection.importlib.util, "find_spec", lambda name: None)
    assert refused("--seeds", "1", "--tensorboard", "False", "--ray", "local") == [
        "Ray is not installed: pip install 'fastdqn[ray]'"
    ]
    assert list(Path().iterdir()) == []


def test_a_dry_run_needs_no_cluster(in_an_empty_folder):
    code, out, err = ask("train", "cartpole", "--seeds", "1-3", "--dry-run", "--ray", "127.0.0.1:1")
    assert (code, err) == (0, [])
    assert "3 runs, as many as the cluster holds at a time\n" in out
    assert list(Path().iterdir()) == []


@pytest.mark.ray
def test_a_cluster_that_does_not_answer_is_one_line(in_an_empty_folder):
    pytest.importorskip("ray", reason="needs the extra ray")
    (line,) = refused("--seeds", "1", "--ray", "127.0.0.1:1")
    assert line.startswith("no Ray cluster at 127.0.0.1:1: nothing answers there.")
    assert list(Path().iterdir()) == []


def start(storage: str, *words: str, **options) -> subprocess.Popen:
    """Starts `fastdqn train cartpole` with these words in a process."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, storage, "train", "cartpole", *words], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


STEPS = 8_000 + 2_000 * KILLS
# Runs of a few seconds, with many checkpoints. The last of two equal options counts.
WORDS = (
    "--seeds", "1-3", "--run-dir", "my study", *TINY, "--total-timesteps", str(STEPS),
    "--train-frequency", "1", "--checkpoint-frequency", "500",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
@storage
def test_a_study_whose_driver_is_killed_at_random_moments_is_continued(
    cluster, caches, tmp_path, storage
):
    rng, words = random.Random(KILLS), (*WORDS, "--ray", cluster.address)
    finished, hit, ends = 0, 0, list[float]()

    def running() -> list[int]:
        return run_processes(tmp_path, caches)

    for number in range(KILLS):
        process = start(storage, *words, cwd=tmp_path)
        if number % 4 != 3:  # else it may be killed before a run has begun
            wait_until(lambda process=process: running() or process.poll() is not None, 200)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(0.0, 8.0))
        hit += bool(running())
        process.kill()
        killed = time.monotonic()
        _, err = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), err
        finished += process.returncode == 0
        if number % 2:  # else the next driver starts while the processes are ending
            wait_until(lambda: not running(), 30)
            ends.append(time.monotonic() - killed)
    process = start(storage, *words, "--quiet", cwd=tmp_path)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert out.startswith("returns of the last weights\n")
    print(
        f"{KILLS} kills, {hit} in a run, {finished} after the study, processes ended after at most "
        f"{max(ends):.1f} s"
    )
    study = tmp_path / "my study"
    whole(study, [f"base/seed-{seed}" for seed in (1, 2, 3)], STEPS)
    folders = {each.name for each in (study / "base").iterdir() if each.suffix != ".log"}
    assert folders == {"seed-1", "seed-2", "seed-3"}
    assert not list(study.glob(".tmp*"))
    assert running() == []
    assert not list(caches.glob("*/fastdqn/runs/*"))


@pytest.mark.slow
@pytest.mark.ray
@storage
def test_ctrl_c_saves_a_checkpoint_of_each_run_and_says_how_to_continue(
    cluster, caches, tmp_path, storage
):
    words = (*WORDS, "--seeds", "1-2", "--total-timesteps", "100000000", "--ray", cluster.address)
    process = start(storage, *words, cwd=tmp_path)
    try:
        wait_until(lambda: saved(tmp_path, caches) == 2 or process.poll() is not None, 200)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    last = out.splitlines()[-1]
    assert last.startswith("interrupted: 0 of 2 runs have finished. To continue: fastdqn train ")
    assert shlex.split(last.partition("To continue: ")[2])[3:] == list(words)
    for seed in (1, 2):
        run = tmp_path / "my study" / "base" / f"seed-{seed}"
        assert json.loads((run / "summary.json").read_text())["exit_reason"] == "interrupted"
    assert run_processes(tmp_path, caches) == []


@pytest.mark.slow
@pytest.mark.ray
def test_ray_on_this_machine_ends_with_the_study(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    words = ("--seeds", "1", "--run-dir", "my study", *TINY, "--ray", "local")
    process = start("shared", *words, cwd=tmp_path, start_new_session=True)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "base/seed-1: finished after 600 steps" in out
    assert summary_of(tmp_path / "my study" / "base" / "seed-1") is not None
    assert session_of(process.pid) == []


@pytest.mark.slow
@pytest.mark.ray
def test_ray_on_this_machine_ends_with_a_killed_driver(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    words = (*WORDS, "--total-timesteps", "100000000", "--ray", "local")
    process = start("shared", *words, cwd=tmp_path, start_new_session=True)
    try:
        wait_until(lambda: saved(tmp_path) or process.poll() is not None, 200)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: run_processes(tmp_path) == [], 30)
    wait_until(lambda: session_of(process.pid) == [], 120)  # agents of Ray notice it after 60 s
