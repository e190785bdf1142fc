"""Worker processes: what environments may do in them, and system limits."""

import errno
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from gymnasium.vector import AsyncVectorEnv

import fastdqn
from fastdqn import ConfigError
from fastdqn.envs import EnvRecipe, EnvStream, limit_of
from fastdqn.envs.worker_process import WorkerTarget
from helpers import forks
from helpers.loop import small
from helpers.sub_env import Plain, run_steps


class Simulator(Plain):
    """Starts a process, which its first step uses."""

    def __init__(self):
        super().__init__()
        self.process = None

    def step(self, action):
        if self.process is None:
            ours, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=theirs.send, args=(5.0,), daemon=True)
            self.process.start()
            self.paid = ours.recv()
        obs, _, *rest = super().step(action)
        return obs, self.paid, *rest


@pytest.mark.slow
def test_an_environment_in_a_worker_may_start_processes():
    steps = run_steps(EnvStream(EnvRecipe(Simulator, "async").make(2)), 2)
    assert steps[1].reward.tolist() == [5.0, 5.0]


class Owned:
    """Garbage in a circle; notes the process in which it is collected."""

    def __init__(self, path: Path):
        self.path, self.itself = path, self

    def __del__(self):
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")


class Collecting(Plain):
    def reset(self, **given):
        gc.collect()
        return super().reset(**given)


@pytest.mark.slow
@pytest.mark.parametrize("collects", [True, False])
def test_a_worker_does_not_collect_the_parents_garbage(tmp_path, collects, monkeypatch):
    monkeypatch.setattr(forks, "KEEP_GARBAGE", False)
    before = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        Owned(tmp_path / "processes")
        if collects:
            gc.enable()
        envs = EnvRecipe(Collecting, "async").make(2)
        assert gc.isenabled() == collects
        envs.reset(seed=0)
        envs.close()
    finally:
        gc.enable() if before else gc.disable()
    gc.collect()
    assert (tmp_path / "processes").read_text() == f"{os.getpid()}\n"


class Program(Plain):
    """Starts a program, ends it with SIGTERM and waits."""

    def close(self):
        program = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        program.terminate()
        assert program.wait() == -signal.SIGTERM


def test_an_environment_in_a_worker_can_end_its_programs(tmp_path):
    closed = tmp_path / "closed"

    class Noted(Program):
        def close(self):
            super().close()
            closed.touch()

    stream = EnvStream(EnvRecipe(Noted, "async").make(1))
    closed.unlink()  # the one that was made to look at its spaces
    run_steps(stream, 1)
    assert closed.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [SystemExit(0), GeneratorExit(), RuntimeError("stuck"), OSError()]
)
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_close_that_raises_is_ignored(tmp_path, vectorization, error):
    class Clingy(Plain):
        def close(self):
            raise error

    config = small(tmp_path, vectorization=vectorization, total_timesteps=300, eval_frequency=150)
    assert fastdqn.train(config, Clingy).summary["exit_reason"] == "budget spent"


@pytest.mark.slow
@pytest.mark.parametrize("stays", ["close", "thread"])
def test_a_worker_that_does_not_end_is_ended(monkeypatch, stays):
    monkeypatch.setattr("fastdqn.envs.workers._PATIENCE", 0.2)

    class Staying(Plain):
        def close(self):
            if multiprocessing.parent_process() is None:
                return
            if stays == "close":
                threading.Event().wait()
            threading.Thread(target=threading.Event().wait).start()

    run_steps(EnvStream(EnvRecipe(Staying, "async").make(2)), 1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), RuntimeError("no screen")])
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_constructor_that_fails_is_one_line(tmp_path, vectorization, error):
    class Stillborn(Plain):
        def __init__(self):
            raise error

    with pytest.raises(ConfigError, match=type(error).__name__) as caught:
        fastdqn.train(small(tmp_path, vectorization=vectorization), Stillborn)
    assert len(caught.value.lines) == 1


def test_a_constructor_that_fails_in_its_process_is_named():
    class Elsewhere(Plain):
        def __init__(self):
            super().__init__()
            if multiprocessing.parent_process() is not None:
                raise RuntimeError("no licence\nleft")

    with pytest.raises(ValueError, match=r"env \d: RuntimeError: no licence left$"):
        EnvRecipe(Elsewhere, "async").make(2)
    assert not multiprocessing.active_children()


def test_a_constructor_whose_error_is_longer_than_a_pipe_is_named():
    class Wordy(Plain):
        def __init__(self):
            super().__init__()
            if multiprocessing.parent_process() is not None:
                raise RuntimeError("x" * 200_000)

    with pytest.raises(ValueError, match=r"env \d: RuntimeError: xxx") as caught:
        EnvRecipe(Wordy, "async").make(2)
    assert len(str(caught.value)) < 3_000


def test_errors_of_many_constructors_do_not_block_on_the_pipe():
    """Each would block its process, whose end the parent waits for."""
    target = WorkerTarget(0)

    def fail():
        raise RuntimeError("\U0001f600" * 100_000)

    for index in range(8):
        with pytest.raises(SystemExit):
            target._make(index, fail)
    assert list(target.reports()) == [0, 1]
    with pytest.raises(SystemExit):
        target._make(9, fail)
    assert list(target.reports()) == [0, 1, 9]


@pytest.mark.slow
def test_ending_workers_does_not_end_other_processes():
    others = []

    class Starting(Plain):
        def __init__(self):
            super().__init__()
            if multiprocessing.parent_process() is not None:
                raise RuntimeError("boom")
            others.append(multiprocessing.Process(target=threading.Event().wait, daemon=True))
            others[-1].start()

    with pytest.raises(ValueError, match="boom"):
        EnvRecipe(Starting, "async").make(2)
    (other,) = others
    assert other.is_alive()
    other.kill()
    other.join()


@pytest.mark.slow
def test_an_attribute_of_given_environments_is_no_step_limit():
    class Seconds(Plain):
        time_limit = 60

    envs = AsyncVectorEnv([Seconds])
    assert limit_of(envs) is None
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit("over")])
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_step_that_raises_a_base_exception_is_named(vectorization, error):
    class Leaving(Plain):
        def step(self, action):
            raise error

    stream = EnvStream(EnvRecipe(Leaving, vectorization).make(2))
    with pytest.raises(fastdqn.EnvError, match=f"^env 0, step 1 .*{type(error).__name__}"):
        run_steps(stream, 1)
    stream.close()


@pytest.mark.slow
def test_too_few_file_descriptors_are_one_line_that_names_the_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        with pytest.raises(
            ValueError, match=r"^Plain cannot be made: 64 worker .*ulimit -n.*--num-envs"
        ):
            EnvRecipe(Plain, "async").make(64)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not multiprocessing.active_children()


SCRIPT = """
import multiprocessing, os, signal, sys
from multiprocessing import forkserver
from pathlib import Path
sys.path.insert(0, {tests!r})
import fastdqn
from helpers.loop import small
from helpers.sub_env import Plain

def train():
    run = fastdqn.train(
        small(
            Path({folder!r}), vectorization="async", num_envs=2, total_timesteps=10**7,
            final_evaluation=False,
        ),
        Plain, on_step=stop,
    )
    print(run.summary["exit_reason"], flush=True)

def stop(progress, step):
    if progress.steps == 40:
        os.killpg(0, signal.SIGINT)

multiprocessing.set_start_method({method!r}, force=True)
{start}
"""


def run_script(tmp_path: Path, method: str, start: str) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parents[1])
    script.write_text(SCRIPT.format(tests=tests, folder=str(tmp_path), method=method, start=start))
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120,
        start_new_session=True,
    )  # fmt: skip


GUARDED = """
if __name__ == "__main__":
    forkserver.ensure_running()  # before anybody sets signals, as where it was used already
    try:
        train()
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.slow
def test_an_interrupt_of_the_whole_group_leaves_workers_of_a_fork_server_to_the_parent(tmp_path):
    ended = run_script(tmp_path, "forkserver", GUARDED)
    assert ended.stderr == ""
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
    summary = (tmp_path / "run" / "summary.json").read_text()
    assert '"exit_reason": "interrupted"' in summary


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_rejected_in_one_line(tmp_path):
    ended = run_script(tmp_path, "spawn", "train()")
    assert ended.returncode != 0
    assert "behind if __name__ == '__main__':" in ended.stderr
    assert "freeze_support" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EAGAIN, r"Resource temporarily unavailable\. This is the limit of processes"),
        (errno.ENOMEM, r"Cannot allocate memory\. This is the memory of the machine"),
        (errno.ENOSPC, r"No space left on device\. This is the space in /dev/shm"),
        (errno.EACCES, r"PermissionError: .*Permission denied"),
    ],
)
def test_a_failed_process_start_is_one_line_with_the_reason(monkeypatch, number, says):
    start, started = ForkProcess.start, []

    def start_one(self):
        if started:
            raise OSError(number, os.strerror(number))
        started.append(self)
        start(self)

    monkeypatch.setattr(ForkProcess, "start", start_one)
    with pytest.raises(ValueError, match=f"^Plain cannot be made: .*{says}"):
        EnvRecipe(Plain, "async").make(3)
    assert len(started) == 1
    assert not multiprocessing.active_children()
