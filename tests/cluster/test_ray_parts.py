"""Parts of the scheduler of a Ray cluster that need no cluster: room, errors, copies of nodes."""

import os
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

from ray.exceptions import RayTaskError

from fastdqn.cluster import ray_scheduler, resources, runner
from fastdqn.cluster.ray_scheduler import Copy, RayScheduler, read_copy
from fastdqn.cluster.resources import Resources, capacity
from fastdqn.files.run_lock import RunLock
from fastdqn.study.run_progress import RunProgress, live_folder


def nodes(monkeypatch, *found: dict[str, float]) -> None:
    alive = [{"Alive": True, "Resources": each} for each in found]
    lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
    monkeypatch.setattr(resources.ray, "nodes", lambda: [*alive, lost])


@pytest.mark.parametrize(
    ("needed", "jobs"),
    [
        (Resources(1), 8 + 3), (Resources(2), 4 + 1), (Resources(4), 2), (Resources(9), 0),
        (Resources(1, 1), 2), (Resources(1, 0.5), 4), (Resources(1, 0.1), 8), (Resources(1, 2), 1),
        (Resources(1, 0.35), 4), (Resources(4, 0.25), 2), (Resources(1, 3), 0),
    ],
)  # fmt: skip
def test_each_node_holds_whole_jobs(monkeypatch, needed, jobs):
    nodes(monkeypatch, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}, {})
    assert capacity(needed) == jobs


def test_room_is_never_negative_when_nodes_are_lost(monkeypatch, tmp_path):
    """RunQueue takes as many runs as there is room for from a list."""
    nodes(monkeypatch, {"CPU": 3.0})
    scheduler = RayScheduler(tmp_path, Resources())
    assert scheduler.free == 3
    scheduler._running = dict.fromkeys("abc")  # pyright: ignore[reportAttributeAccessIssue]
    assert scheduler.free == 0
    nodes(monkeypatch)
    monkeypatch.setattr(ray_scheduler, "_NODES", 0.0)
    assert scheduler.free == 0
    scheduler._running.clear()
    assert scheduler.free == 1  # a run waits for a node
    scheduler.close()
    assert list(tmp_path.iterdir()) == []


LOST = (
    "The actor died unexpectedly before finishing this task. class_name: Runner pid: 7 The actor "
    "{} because its {} has died. Node Id: 1de3"
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError(LOST.format("is dead", "worker process")), "the run was lost: its worker "
         "process has died"),
        (RuntimeError(LOST.format("died", "node")), "the run was lost: its node has died"),
        (RayTaskError("open", "Traceback\n" * 99, RuntimeError("another process\nholds it")),
         "another process holds it"),
        (RuntimeError("Traceback:\nModuleNotFoundError: No module named 'fastdqn.cluster'\n"),
         "the node cannot import fastdqn.cluster: install fastdqn on every node"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)  # fmt: skip
def test_an_error_is_one_short_line(error, says):
    assert ray_scheduler._reason(error) == says


def test_a_run_waits_for_the_process_of_a_killed_driver(tmp_path, monkeypatch):
    task = SimpleNamespace(token=None, host="here", folder=tmp_path / "run", has_gpu=True)
    context = SimpleNamespace(get_node_id=lambda: "node")
    monkeypatch.setattr(runner.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(runner, "_WAIT", 0.3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shared = SimpleNamespace(**{**vars(task), "token": (tmp_path / "token", "content")})
    (tmp_path / "token").write_text("content")
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"), pytest.raises(RuntimeError, match="another process is using"):
        runner.Runner(shared).open("")  # pyright: ignore[reportArgumentType]
    place = runner.Runner(shared).open("")  # pyright: ignore[reportArgumentType]
    assert (place.node, place.shared, place.kept) == ("node", True, True)
    first = runner.Runner(task)  # pyright: ignore[reportArgumentType]
    assert not first.open("a").kept
    with pytest.raises(RuntimeError, match="another process is using"):
        runner.Runner(task).open("a")  # pyright: ignore[reportArgumentType]
    first.name_copy("a")
    assert first._node is not None
    first._node.release()
    assert runner.Runner(task).open("a").kept  # pyright: ignore[reportArgumentType]


def test_storage_is_shared_only_if_the_token_has_the_content_of_the_driver(tmp_path):
    token = tmp_path / "token"
    assert not runner._has(None)
    assert not runner._has((token, "content"))
    token.write_text("another")
    assert not runner._has((token, "content"))
    token.write_text("content")
    assert runner._has((token, "content"))


def test_a_run_that_was_trained_here_since_then_has_no_copy(tmp_path):
    """As without --ray after a killed driver: that of the node is behind."""
    run = tmp_path / "seed-1"
    copy = Copy("name", "node", "10.0.0.3")
    assert read_copy(run) is None
    ray_scheduler._write_copy(run, copy)
    assert read_copy(run) == copy
    run.mkdir()
    (run / "metrics.jsonl").touch()
    os.utime(run / "metrics.jsonl", (1, 1))
    assert read_copy(run) == copy
    os.utime(run / "metrics.jsonl", (1 << 32, 1 << 32))
    assert read_copy(run) is None
    for text in ("", "[]", "{}", '{"name": 1, "node": "", "address": ""}', "\xff"):
        (tmp_path / "seed-1.node").write_text(text, encoding="latin-1")
        assert read_copy(run) is None


def test_a_run_goes_to_the_node_with_its_copy_also_under_another_id(monkeypatch):
    found = [
        {"Alive": True, "NodeID": "a" * 56, "NodeManagerAddress": "10.0.0.3"},
        {"Alive": True, "NodeID": "b" * 56, "NodeManagerAddress": "10.0.0.4"},
    ]
    monkeypatch.setattr(resources.ray, "nodes", lambda: found)

    def chosen(node: str, address: str) -> str:
        strategy = ray_scheduler._strategy(Copy("name", node, address))
        return strategy if isinstance(strategy, str) else strategy.node_id

    assert chosen("b" * 56, "10.0.0.3") == "b" * 56
    assert chosen("c" * 56, "10.0.0.3") == "a" * 56
    assert chosen("c" * 56, "10.0.0.9") == "SPREAD"


def test_progress_is_read_where_the_newest_rows_are(tmp_path):
    run, live = tmp_path / "seed-1", live_folder(tmp_path / "seed-1")
    progress = RunProgress(run, 100, None)
    assert (progress.written, progress.read().steps) == (0.0, 0)
    for folder, steps, time in ((run, 40, 1_000), (live, 60, 2_000)):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(f'{{"time/total_timesteps": {steps}}}\n')
        os.utime(folder / "metrics.jsonl", (time, time))
        assert (progress.written, progress.read().steps) == (time, steps)
    os.utime(run / "metrics.jsonl", (3_000, 3_000))
    assert progress.read().steps == 40


@pytest.mark.parametrize(("has_gpu", "seen"), [(True, "3"), (False, "")])
def test_a_run_sees_the_gpus_that_ray_has_assigned(monkeypatch, has_gpu, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    runner.Runner(SimpleNamespace(has_gpu=has_gpu))  # pyright: ignore[reportArgumentType]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
