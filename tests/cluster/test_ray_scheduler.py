"""RayScheduler: runs on two nodes, with shared storage and with copies, and interruptions."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

from fastdqn.cluster.folder_copy import BLOCK
from fastdqn.cluster.ray_scheduler import RayScheduler, read_copy
from fastdqn.cluster.resources import Resources
from fastdqn.config.schema import ConfigError
from fastdqn.study.local_scheduler import LocalScheduler
from fastdqn.study.run_progress import RunProgress, live_folder
from fastdqn.study.run_queue import Entry, RunQueue, State
from fastdqn.study.study_folder import Run
from helpers.clusters import kill, parent_of, run_processes, saved, two_larger_nodes, wait_until
from helpers.studies import BASE, TINY, Lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 600
# Of the rows: all that depends on the speed.
_TIMES = ("time/", "charts/SPS")
storage = pytest.mark.parametrize("shared", [True, False], ids=["shared", "copied"])
LONG = ("--total-timesteps", "100000000")


def queue(folder: Path, scheduler, seeds=(1, 2), words: tuple[str, ...] = ()) -> RunQueue:
    """Returns a queue of small runs. words: options that replace others."""
    (folder / "base").mkdir(parents=True, exist_ok=True)
    entries = []
    for seed in seeds:
        run = Run(BASE, seed, folder / "base" / f"seed-{seed}")
        own = ("--seed", str(seed), "--run-dir", str(run.folder), "--resume", "auto", "--quiet")
        given = ("train", "cartpole", *TINY, *words, *own)
        entries.append(Entry(run, given, RunProgress(run.folder, STEPS, None)))
    return RunQueue(entries, scheduler, Lines())


@pytest.fixture
def ray_scheduler(cluster, tmp_path):
    """Makes schedulers, and closes them."""
    made = []

    def make(folder: Path = tmp_path, **options) -> RayScheduler:
        (folder / "base").mkdir(parents=True, exist_ok=True)
        options = {"resources": Resources(), **options}
        made.append(RayScheduler(folder, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
    wait_until(lambda: not run_processes(tmp_path))


def begun(found: RunQueue) -> bool:
    """Returns whether all running runs have rows that are newer than their start."""
    running = [entry for entry in found.entries if entry.state is State.RUNNING]
    return bool(running) and all(each.progress.written > each.started for each in running)


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def rows(run: Path) -> list[dict]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith(_TIMES)} for row in found]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same runs, trained by processes of this machine."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "base").mkdir()
    found = queue(folder, LocalScheduler(1))
    found.train()
    assert found.count(State.FINISHED) == 2
    return folder / "base"


@storage
def test_runs_are_those_of_local_jobs(ray_scheduler, tmp_path, caches, here, shared):
    scheduler = ray_scheduler(shared=shared)
    assert scheduler.free == 2
    found = queue(tmp_path, scheduler)
    found.train()
    assert found.count(State.FINISHED) == 2
    assert scheduler.free == 2
    for seed in (1, 2):
        ours, theirs = tmp_path / "base" / f"seed-{seed}", here / f"seed-{seed}"
        assert names(ours) == names(theirs)
        assert rows(ours) == rows(theirs)
        for name in ("policy.safetensors", "best.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    scheduler.close()
    assert names(tmp_path / "base") == {"seed-1", "seed-2"}
    assert names(tmp_path) == {"base"}
    assert not list(caches.glob("*/fastdqn/runs/*"))


@storage
def test_a_run_that_fails_is_repeated_once_and_its_error_is_in_the_log(
    ray_scheduler, tmp_path, shared
):
    found = queue(tmp_path, ray_scheduler(shared=shared), (1,), ("--gama", "3"))
    found.train()
    (failed,) = found.failed()
    assert (failed.attempts, failed.error) == (2, "unknown option '--gama': did you mean --gamma?")
    assert failed.run.log.read_text().count("error: unknown option") == 2


@storage
def test_a_run_whose_runner_is_killed_is_repeated(ray_scheduler, tmp_path, caches, shared):
    found = queue(tmp_path, ray_scheduler(shared=shared), (1,), LONG)
    (entry,) = found.entries
    killed = []

    def stop() -> bool:
        processes = run_processes(tmp_path, caches)
        if not killed and begun(found) and saved(tmp_path, caches):
            killed.extend(processes)
            kill(parent_of(processes[0]))
        return bool(killed) and entry.attempts == 2 and begun(found)

    found.train(stop=stop)
    assert entry.state is State.INTERRUPTED
    assert killed[0] not in run_processes(tmp_path, caches)
    assert entry.run.log.read_text() == "error: the run was lost: its worker process has died\n"
    assert entry.origin.startswith("resumes from step") == shared


@storage
def test_a_run_of_a_lost_node_is_repeated_on_another(
    ray_scheduler, cluster, tmp_path, caches, shared
):
    with two_larger_nodes(cluster, caches) as remove:
        scheduler = ray_scheduler(shared=shared, resources=Resources(2))
        found = queue(tmp_path, scheduler, (1,), LONG)
        (entry,), removed = found.entries, []

        def stop() -> bool:
            if not removed and begun(found) and saved(tmp_path, caches):
                (process,) = run_processes(tmp_path, caches)
                remove(parent_of(process))
                removed.append(process)
            return entry.attempts == 2 and begun(found)

        found.train(stop=stop)
    assert entry.state is State.INTERRUPTED
    assert entry.run.log.read_text().startswith("error: the run was lost: its node has died\n")


@storage
def test_stopped_runs_go_on_where_they_were(ray_scheduler, tmp_path, caches, shared):
    words = ("--total-timesteps", "20000", "--train-frequency", "1")
    found = queue(tmp_path, ray_scheduler(shared=shared), words=words)
    found.train(stop=lambda: begun(found) and saved(tmp_path, caches) == 2)
    assert found.count(State.INTERRUPTED) == 2
    for entry in found.entries:
        summary = json.loads((entry.run.folder / "summary.json").read_text())
        assert summary["exit_reason"] == "interrupted"
        assert not live_folder(entry.run.folder).exists()
        assert read_copy(entry.run.folder) is None
    assert not list(caches.glob("*/fastdqn/runs/*"))
    again = queue(tmp_path, ray_scheduler(shared=shared), words=words)
    again.train()
    assert again.count(State.FINISHED) == 2
    assert {entry.origin.split(" ")[0] for entry in again.entries} == {"resumes"}
    for entry in again.entries:
        steps = [row["step"] for row in rows(entry.run.folder) if "rollout/episodes" in row]
        assert steps == sorted(set(steps))
        assert steps[-1] >= 20_000


def test_files_larger_than_a_block_are_copied_both_ways(ray_scheduler, tmp_path, caches):
    found = queue(tmp_path, ray_scheduler(shared=False), (1,), LONG)
    found.train(stop=lambda: begun(found) and bool(saved(caches)))
    run = found.entries[0].run.folder
    content = os.urandom(1 << 20) * (2 * (BLOCK >> 20) + 1) + b"end"
    (run / "deep" / "er").mkdir(parents=True)
    (run / "deep" / "er" / "large.bin").write_bytes(content)
    (run / "empty").touch()
    before = (run / "requested.json").stat().st_ino
    again = queue(tmp_path, ray_scheduler(shared=False), (1,), LONG)
    again.train(stop=lambda: begun(again))
    assert again.count(State.INTERRUPTED) == 1
    assert (run / "requested.json").stat().st_ino != before
    assert (run / "deep" / "er" / "large.bin").read_bytes() == content
    assert (run / "empty").read_bytes() == b""


@storage
def test_a_checkpoint_is_written_on_request(ray_scheduler, tmp_path, caches, shared):
    never = ("--checkpoint-frequency", "100000000", "--checkpoint-seconds", "None")
    found = queue(tmp_path, ray_scheduler(shared=shared), (1,), (*LONG, *never))
    asked = []

    def save() -> bool:
        if asked or not begun(found):
            return False
        asked.append(True)
        return True

    found.train(lambda: bool(saved(tmp_path, caches)), save)
    assert asked
    assert found.count(State.INTERRUPTED) == 1


def test_a_stop_ends_runs_that_wait_for_room(ray_scheduler, tmp_path, monkeypatch):
    """As when others use the cluster: a third run is asked for where there is room for two."""
    scheduler = ray_scheduler()
    monkeypatch.setattr(RayScheduler, "free", property(lambda self: 3 - len(self._running)))
    found = queue(tmp_path, scheduler, (1, 2, 3), LONG)
    found.train(stop=lambda: sum(each.progress.written > 0 for each in found.entries) == 2)
    assert found.count(State.INTERRUPTED) == 3
    assert sum(entry.run.folder.exists() for entry in found.entries) == 2


def test_jobs_limit_what_the_cluster_holds(ray_scheduler):
    assert ray_scheduler(jobs=1).free == 1
    assert ray_scheduler(jobs=9).free == 2


def test_a_job_that_no_node_holds_is_refused(cluster, tmp_path):
    for needed, line in (
        (Resources(2), "ray_cpus is 2: no node of the cluster has as many, the largest has 1. "
         "Lower --ray-cpus"),
        (Resources(1, 0.5), "ray_gpus is 0.5: no node of the cluster has as many, the largest has "
         "0. Lower --ray-gpus"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            RayScheduler(tmp_path, needed)
        assert refused.value.lines == [line]
    assert names(tmp_path) == set()
