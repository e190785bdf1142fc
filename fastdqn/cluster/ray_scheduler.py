"""RayScheduler: runs jobs as actors of a Ray cluster, with or without shared storage."""

import contextlib
import json
import platform
import queue
import re
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastdqn.cluster.folder_copy import FolderCopy, files_of, finish_copies, read_block, send_files
from fastdqn.cluster.resources import Resources, alive_nodes, capacity, too_large
from fastdqn.cluster.runner import SHOWN, Place, Report, Runner, Task
from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import read_text, to_json, write_whole
from fastdqn.files.durable_write import TEMPORARY, remove
from fastdqn.study.run_progress import live_folder
from fastdqn.study.scheduler import Ended, Job
from fastdqn.system.python_threads import ThreadError, start_thread
from fastdqn.text import printable

_TOKEN = f"{TEMPORARY}storage-"
# Seconds between two reports of a run: with shared storage only its end is reported.
_SHARED_REPORT, _COPY_REPORT = 10.0, 1.0
# Seconds between two looks at an actor that waits for room, or at one that cannot be reached.
_LOOK = 0.5
# Seconds between two looks at the nodes of the cluster.
_NODES = 5.0
# Copies that are sent at a time, each with a block in memory.
_TRANSFERS = 4
# Calls that an actor answers at a time: a report waits for the end of the run.
_CALLS = 4
# Seconds that close() waits for the threads of killed actors.
_CLOSE = 20.0
_INTERRUPTED = 130
_LONGEST = 300  # maximum characters of a reason of Ray


class Copy(NamedTuple):
    """The copy of a run that a node keeps: its name, and the node's id and address."""

    name: str
    node: str
    address: str


class _Running:
    """A job that has started. actor is None until it has been asked for."""

    def __init__(self, job: Job, folder: Path):
        self.job, self.folder = job, folder
        self.actor: Any = None
        self.begun = False


class RayScheduler:
    """Scheduler of the Ray cluster that this process is connected to.

    Each job is an actor on one node, which starts the run in a process of its own. A node that sees
    the folder of the study trains there. Another one trains in a copy, which arrives as a whole
    when the run ends. The end of this process ends all actors and their processes.

    Args:
        folder: Folder of the study, which this process holds.
        resources: What a job needs.
        jobs: Most jobs at a time. None: what the cluster holds.
        shared: Whether nodes may use the folder of the study itself if they see it.

    Raises:
        ConfigError: No node has what a job needs.
    """

    def __init__(
        self, folder: Path, resources: Resources, jobs: int | None = None, shared: bool = True
    ):
        self._resources, self._most = resources, jobs
        self._running: dict[str, _Running] = {}
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._stopping, self._closing = threading.Event(), threading.Event()
        self._transfers = threading.Semaphore(_TRANSFERS)
        self._capacity, self._counted = capacity(resources), time.monotonic()
        if self._capacity == 0:
            raise ConfigError([too_large(resources)])
        for variant in (each for each in folder.iterdir() if each.is_dir()):
            finish_copies(variant)
            for run in variant.glob(live_folder(variant / "*").name):
                remove(run)
        for token in folder.glob(f"{_TOKEN}*"):
            token.unlink(missing_ok=True)
        self._token = (folder / f"{_TOKEN}{uuid.uuid4().hex}", uuid.uuid4().hex) if shared else None
        if self._token is not None:
            write_whole(*self._token)

    @property
    def free(self) -> int:
        if time.monotonic() - self._counted >= _NODES:
            self._capacity, self._counted = capacity(self._resources), time.monotonic()
        # A cluster that has lost all of its nodes may get others: one job waits for them.
        room = max(1, self._capacity)
        return max(0, min(room, self._most or room) - len(self._running))

    def start(self, job: Job) -> None:
        folder = Path(job.words[job.words.index("--run-dir") + 1])
        running = self._running[job.key] = _Running(job, folder)
        try:
            start_thread(self._attend, running, name=f"job {job.key}")
        except ThreadError as error:
            _log(job.log, f"error: {error}")
            self._ended.put(Ended(job.key, 1))

    def wait(self, seconds: float) -> list[Ended]:
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        for each in found:
            self._running.pop(each.key, None)
        return found

    def stop(self) -> None:
        self._stopping.set()
        for each in list(self._running.values()):
            if each.begun:
                each.actor.stop.remote()

    def save(self, key: str) -> None:
        running = self._running[key]
        if running.begun:
            running.actor.save.remote()

    def close(self) -> None:
        self._stopping.set()
        self._closing.set()
        for each in self._running.values():
            if each.actor is not None:
                _kill(each.actor)
        end = time.monotonic() + _CLOSE
        while self._running and time.monotonic() < end:
            self.wait(_LOOK)
        self._running.clear()
        if self._token is not None:
            self._token[0].unlink(missing_ok=True)

    def _attend(self, running: _Running) -> None:
        """Trains a run: a thread of each job."""
        job, code = running.job, 1
        try:
            code = self._train(running)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            if not self._closing.is_set():
                _log(job.log, f"error: {_reason(error)}")
        finally:
            if running.actor is not None:
                _kill(running.actor)
            self._ended.put(Ended(job.key, code))

    def _train(self, running: _Running) -> int:
        job, folder = running.job, running.folder
        before = read_copy(folder)
        running.actor = self._actor(job, folder, before)
        opened = running.actor.open.remote("" if before is None else before.name)
        while not ray.wait([opened], timeout=_LOOK)[0]:  # until a node has room
            if self._stopping.is_set():
                return _INTERRUPTED
        place: Place = ray.get(opened)
        if place.shared:
            _copy_file(folder).unlink(missing_ok=True)  # of a node that did not see the storage
        else:
            self._send(running, place, before)
        if self._stopping.is_set():
            return _INTERRUPTED
        ray.get(running.actor.begin.remote())
        running.begun = True
        if self._stopping.is_set():  # since the look above
            running.actor.stop.remote()
        code = self._follow(running, place)
        if not place.shared:
            self._fetch(running)
        return code

    def _actor(self, job: Job, folder: Path, before: Copy | None) -> Any:
        threads = max(1, int(self._resources.cpus))
        task = Task(
            job.words, folder, job.log, platform.node(), Path.cwd(), self._token, threads,
            self._resources.gpus > 0,
        )  # fmt: skip
        made: Any = ray.remote(Runner).options(
            num_cpus=self._resources.cpus, num_gpus=self._resources.gpus, max_restarts=0,
            max_task_retries=0, max_concurrency=_CALLS, scheduling_strategy=_strategy(before),
        )  # fmt: skip
        return made.remote(task)

    def _send(self, running: _Running, place: Place, before: Copy | None) -> None:
        """Sends the driver's copy of a run to a node, unless the node has a newer one."""
        actor, folder = running.actor, running.folder
        name = before.name if place.kept and before is not None else uuid.uuid4().hex
        _write_copy(folder, Copy(name, place.node, place.address))
        if place.kept:
            return
        if folder.exists():
            files = files_of(folder)
            with self._transfers:
                ray.get(actor.begin_copy.remote())
                send_files(
                    files,
                    lambda file, start: read_block(folder, file, start),
                    lambda file, block: ray.get(actor.add.remote(file, block)),
                )
                ray.get(actor.end_copy.remote(files))
        ray.get(actor.name_copy.remote(name))

    def _follow(self, running: _Running, place: Place) -> int:
        """Waits for the end of a run, and shows its rows and its log meanwhile."""
        seconds = _SHARED_REPORT if place.shared else _COPY_REPORT
        live, logged = live_folder(running.folder), 0
        while True:
            try:
                report: Report = ray.get(running.actor.report.remote(seconds, logged))
            except ActorUnavailableError:  # it may answer again, or is found dead
                time.sleep(_LOOK)
                continue
            if report.log:
                with open(running.job.log, "ab") as log:
                    logged += log.write(report.log)
            _show(live, report.rows)
            if report.code is not None:
                return report.code

    def _fetch(self, running: _Running) -> None:
        """Puts the node's copy of a run that has ended in place, and removes it there."""
        actor, copy = running.actor, FolderCopy(running.folder)
        with self._transfers:
            files = ray.get(actor.files.remote())
            if files:
                copy.begin()
                send_files(
                    files, lambda file, start: ray.get(actor.read.remote(file, start)), copy.add
                )
                copy.end(files)
        _forget_copy(running.folder)
        with contextlib.suppress(RayError):  # the next run of this name removes it
            ray.get(actor.delete_copy.remote())


def read_copy(folder: Path) -> Copy | None:
    """Returns the copy of a run that a node keeps, or None.

    A run that was trained in its own folder since then has none.
    """
    path = _copy_file(folder)
    try:
        found = Copy(**json.loads(read_text(path)))
        rows = folder / SHOWN[0]
        is_older = rows.exists() and rows.stat().st_mtime > path.stat().st_mtime
        return None if is_older or not all(isinstance(each, str) for each in found) else found
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write_copy(folder: Path, copy: Copy) -> None:
    write_whole(_copy_file(folder), to_json(copy._asdict()) + "\n")


def _forget_copy(folder: Path) -> None:
    _copy_file(folder).unlink(missing_ok=True)
    if (live := live_folder(folder)).exists():
        remove(live)


def _copy_file(folder: Path) -> Path:
    """Returns the file beside the log of a run that names the copy of a node."""
    return folder.with_name(f"{folder.name}.node")


def _strategy(before: Copy | None) -> Any:
    """Returns where an actor goes: to the node that has a copy, also if its id has changed."""
    if before is not None:
        nodes = alive_nodes()
        ids = [each["NodeID"] for each in nodes if each["NodeID"] == before.node]
        ids += [each["NodeID"] for each in nodes if each["NodeManagerAddress"] == before.address]
        if ids:
            return NodeAffinitySchedulingStrategy(ids[0], soft=True)
    return "SPREAD"


def _show(live: Path, rows: Mapping[str, bytes]) -> None:
    """Writes the newest rows of a run where its progress is read. They need not last: no sync."""
    if rows:
        live.mkdir(exist_ok=True)
    for name, content in rows.items():
        new = live / f"{name}.new"
        new.write_bytes(content)
        new.replace(live / name)


def _kill(actor: Any) -> None:
    with contextlib.suppress(Exception):  # Ray raises many things for a lost connection
        ray.kill(actor)


def _reason(error: Exception) -> str:
    """Returns an error on one line. That of a lost actor of Ray is a long text."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        error = error.cause  # else with the traceback of the node
    text = " ".join(str(error).split())
    if found := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", text):
        text = f"the node cannot import {found[1]}: install fastdqn on every node"
    elif found := re.search(r"The actor (?:is dead|died) because (.*?)\.( |$)", text):
        text = f"the run was lost: {found[1]}"
    return printable(text)[:_LONGEST]


def _log(path: Path, line: str) -> None:
    with contextlib.suppress(OSError), open(path, "a") as log:
        print(line, file=log)
