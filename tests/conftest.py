"""Shared fixtures, and checks that no test leaves anything open."""

import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import gymnasium
import hypothesis
import pytest
from gymnasium.vector import AsyncVectorEnv

from helpers import forks

# A shell starts background programs with SIGINT ignored, which pytest would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A process that a test forks by itself inherits garbage of earlier tests. The destructor of a C++
# object in it, such as EnvPool's, would crash there: its threads exist only in the parent.
os.register_at_fork(after_in_child=lambda: forks.KEEP_GARBAGE and gc.freeze())


def pytest_configure(config):
    """Without the slow tests, properties are tried with fewer examples than hypothesis's 100."""
    if "not slow" in config.getoption("markexpr"):
        hypothesis.settings.register_profile("quick", max_examples=25)
        hypothesis.settings.load_profile("quick")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Runs neighboring tests in one process, with work stealing at the end."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


# Vector environments made by the package during the current test.
_made: list[gymnasium.vector.VectorEnv] = []
# Helper processes that multiprocessing and torch.compile start once and keep.
_KEPT_PROGRAMS = (
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
    "compile_worker",
)
# Threads that libraries keep.
_KEPT_THREADS = ("tqdm_monitor", "ThreadPoolExecutor")  # the last is torch.compile's
# Seconds that a thread or process may take to end after it was closed.
_END_SECONDS = 10


@pytest.fixture(scope="session", autouse=True)
def _vector_environments_are_noted():
    from fastdqn.envs import make

    def noting(function):
        def noted(*args, **kwargs):
            envs = function(*args, **kwargs)
            _made.append(envs)
            return envs

        return noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make.EnvRecipe, "make", noting(make.EnvRecipe.make))
        patch.setattr(make, "_make_envpool", noting(make._make_envpool))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_synced():
    """A run waits for the disk 20 times. Tests of the order of the calls replace them anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(autouse=True)
def _torch_has_one_thread():
    """Tests run in a process for each core, and threads of torch would wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_is_left_open(_vector_environments_are_noted):
    """Fails a test that leaves an environment of the package, a thread or a process behind.

    Environments in threads of C++ that are still open when the process exits abort it. The check
    itself takes some 20 us a test.
    """
    _made.clear()
    threads, processes = set(threading.enumerate()), _child_processes()
    yield
    left = [f"{type(envs).__name__} is open" for envs in _made if _runs_elsewhere(envs)]
    _made.clear()
    left += [f"thread {each.name} runs" for each in _threads_beyond(threads)]
    for pid in _child_processes() - processes:
        if not (program := _program(pid)) or any(kept in program for kept in _KEPT_PROGRAMS):
            continue
        left.append(f"process {pid} runs: {program[:200]}")
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert left == []


def _threads_beyond(known: set[threading.Thread]) -> list[threading.Thread]:
    """Returns unknown threads that are still running after a grace period."""
    late = [each for each in threading.enumerate() if each not in known and each.is_alive()]
    late = [each for each in late if not each.name.startswith(_KEPT_THREADS)]
    for each in late:
        each.join(_END_SECONDS / 100)
    if any(each.is_alive() for each in late):
        gc.collect()  # ends those whose owner the test has let go
    for each in late:
        each.join(_END_SECONDS)
    return [each for each in late if each.is_alive()]


def _runs_elsewhere(envs: gymnasium.vector.VectorEnv) -> bool:
    """Returns whether an environment is open and uses processes or C++ threads."""
    if envs.closed:
        return False
    packages = {base.__module__.partition(".")[0] for base in type(envs).__mro__}
    return isinstance(envs, AsyncVectorEnv) or not packages.isdisjoint({"ale_py", "envpool"})


def _child_processes() -> set[int]:
    """Returns pids of child processes. Without /proc, only those of multiprocessing."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(map(int, file.read().split()))
    except OSError:
        return {each.pid for each in multiprocessing.active_children() if each.pid is not None}


def _program(pid: int) -> str:
    """Returns the command line of a process, or '' if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "unknown" if sys.platform == "darwin" else ""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    from helpers.checkpoints import make_run
    from helpers.loading import NEWEST

    return make_run(tmp_path_factory.mktemp("template"), 1, 2, NEWEST)


@pytest.fixture
def run(tmp_path, template):
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def waits(monkeypatch):
    """Makes the loop wait for each checkpoint, so that failures do not depend on timing."""
    from fastdqn.checkpoints.background_writer import CheckpointWriter

    write = CheckpointWriter.write

    def write_and_wait(self, *args):
        write(self, *args)
        self._thread.join()

    monkeypatch.setattr(CheckpointWriter, "write", write_and_wait)


@pytest.fixture
def short_profiles(monkeypatch):
    """Profiles measure for 30 ms without the profiler, and take the peaks of the CPU as known."""
    from fastdqn.bench import profile_calls, repeats
    from fastdqn.bench.roofline import Ceilings

    short = repeats.Effort(seconds=0.01, repeats=2, burn_in=0.01)
    monkeypatch.setattr(repeats, "Effort", lambda: short)
    monkeypatch.setattr(profile_calls, "measure_ceilings", lambda *_: Ceilings(1e10, 1e11))


@pytest.fixture(scope="module")
def odd_environments():
    from helpers.command_line import odd_environments

    with odd_environments():
        yield


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def without_the_arcade(monkeypatch):
    """Restores the registered ids of a new process: listing those of ale_py takes long."""
    for env_id, spec in list(gymnasium.registry.items()):
        if str(spec.entry_point).startswith("ale_py"):
            monkeypatch.delitem(gymnasium.registry, env_id)
