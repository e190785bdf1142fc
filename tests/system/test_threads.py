"""Threads that fail, and waits that must have an end."""

import ast
import json
import threading

import pytest

import fastdqn
from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.store import CheckpointStore
from helpers.loop import small
from helpers.sources import FILES, relative


@pytest.mark.parametrize("on_disk_error", ["stop", "continue"])
def test_a_writer_thread_that_raises_ends_the_run_with_its_error(
    tmp_path, monkeypatch, on_disk_error
):
    def fail(*args):
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(CheckpointStore, "add", fail)
    config = small(tmp_path, checkpoint_frequency=100, on_disk_error=on_disk_error)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        fastdqn.train(config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "failed: ZeroDivisionError('in the thread')"
    assert "in fail" in (tmp_path / "run" / "traceback.txt").read_text()
    assert (tmp_path / "run" / "policy.safetensors").exists()


def test_a_slow_disk_is_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdqn.checkpoints.background_writer._PATIENCE", 0.01)
    lines, released = [], threading.Event()

    def report(line):
        lines.append(line)
        released.set()

    monkeypatch.setattr(CheckpointStore, "add", lambda *args: released.wait(30))
    writer = CheckpointWriter(tmp_path, {}, report=report)
    writer.write(1, {}, {})
    writer.close()
    assert len(lines) == 1
    assert "disk" in lines[0]


# Waits without a timeout, and what ends them.
ENDED_BY = {
    "resuming.py acquire": "RunLock, which gives up after some tries",
    "files/run_lock.py acquire": "likewise",
    "cli/sweep_storage.py acquire": "a file lock of the system, held while one line is written",
    "study/local_scheduler.py wait": "the process was killed in the line before",
    "cluster/runner.py wait": "the run itself, which a signal ends, or the end of its parent",
    "cli/ray_sweep.py wait": "TaskPool, which waits for runs that end, or are stopped by a signal",
    "compiled/vector_env.py result": "compiled code steps some rows, as it does without threads",
    "envs/worker_process.py get": "the report is there: the queue was asked before",
}


@pytest.mark.slow
def test_no_wait_is_without_an_end():
    """A thread, a queue or a process is never waited for without a limit."""
    found = {f"{relative(file)} {each}" for file in FILES for each in waits(file.read_text())}
    assert found == set(ENDED_BY)


def waits(source: str) -> list[str]:
    return [
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("join", "get", "wait", "acquire", "result")
        and not node.args
        and not node.keywords
    ]


def test_a_wait_without_an_end_is_seen():
    assert waits("thread.join()\nqueue.get()\nqueue.get(timeout=1)\n', '.join(x)") == [
        "join", "get",
    ]  # fmt: skip
