"""Threads that cannot start, and programs whose standard streams environments close or replace."""

import os
import subprocess
import sys
import threading

import pytest

from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.session import RUN_FAILURES
from fastdqn.system import python_threads, standard_streams
from fastdqn.system.python_threads import ThreadError, start_thread


def no_memory(*_):
    raise MemoryError


@pytest.fixture
def dies_before_it_begins(monkeypatch):
    """As in a process that has just enough memory for a thread's stack."""
    monkeypatch.setattr(threading.Thread, "_bootstrap", lambda self: None)
    monkeypatch.setattr(python_threads, "_SECONDS", 0.01)


@pytest.fixture
def cannot_be_made(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", no_memory)


@pytest.mark.parametrize("limit", ["dies_before_it_begins", "cannot_be_made"])
def test_a_thread_that_does_not_start_is_an_error_of_one_line(request, limit):
    request.getfixturevalue(limit)
    with pytest.raises(ThreadError, match=r"^the thread 'helper' cannot start .*ulimit -v") as told:
        start_thread(print, name="helper")
    assert "\n" not in str(told.value)
    assert isinstance(told.value, RUN_FAILURES)


@pytest.mark.parametrize("limit", ["dies_before_it_begins", "cannot_be_made"])
def test_a_checkpoint_is_written_without_a_thread_of_its_own(request, tmp_path, limit):
    writer = CheckpointWriter(tmp_path, {})
    request.getfixturevalue(limit)
    writer.write(1, {}, {})
    assert writer.ready
    writer.check()
    assert writer.newest_steps == 1
    writer.close()


@pytest.mark.parametrize("module", [sys, threading])
def test_a_hook_that_is_none_keeps_no_thread_from_starting(monkeypatch, module):
    monkeypatch.setattr(module, "excepthook", None)
    begun = threading.Event()
    start_thread(begun.set, name="helper").join()
    assert begun.is_set()


ENVIRONMENT = """
import os, sys, threading
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Odd:
    def write(self, text):
        raise RuntimeError("odd")
    flush = fileno = write

class Bad(CartPoleEnv):
    def step(self, action):
        exec(os.environ.pop("MISCHIEF", ""), globals())
        return super().step(action)

gymnasium.register("Bad-v0", Bad, max_episode_steps=50)
"""
WORDS = [
    "train",
    "bad_env:Bad-v0",
    "--total-timesteps",
    "300",
    "--num-envs",
    "2",
    "--learning-starts",
    "100",
    "--batch-size",
    "16",
    "--buffer-size",
    "1000",
    "--eval-episodes",
    "1",
    "--run-dir",
    "r",
    "--tensorboard",
    "False",
]


def train(folder, mischief):
    """Train on an environment that does mischief in its first step."""
    (folder / "bad_env.py").write_text(ENVIRONMENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env["MISCHIEF"] = mischief
    return subprocess.run(
        [sys.executable, "-m", "fastdqn", *WORDS], cwd=folder, env=env, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "mischief",
    [
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = Odd(); sys.excepthook = threading.excepthook = None",
        "os.close(1); os.close(2)",
    ],
)
def test_a_run_survives_what_an_environment_does_to_the_streams(tmp_path, mischief):
    ended = train(tmp_path, mischief)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "/r; next:" in ended.stdout
    assert (tmp_path / "r" / "policy.safetensors").exists()


@pytest.mark.slow
def test_a_failure_is_reported_though_the_environment_has_closed_the_streams(tmp_path):
    ended = train(tmp_path, "sys.stderr.close(); os.close(2); raise ValueError('told')")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: env 0, step 1 ")
    assert ended.stderr.endswith("ValueError: told\n")


@pytest.mark.slow
def test_a_run_whose_files_an_environment_closes_says_so(tmp_path):
    ended = train(tmp_path, "os.closerange(3, 64)")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: cannot write ")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["presets"], ["doctor"], ["train", "--help"], ["nonsense"]])
def test_commands_run_without_standard_output(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", None)
    from fastdqn.cli.main import main

    with standard_streams.checked_output() as outcome:
        outcome.code = main(words)
    assert outcome.code == (2 if words == ["nonsense"] else 0)


def test_a_closed_stream_is_no_file_of_the_runs(tmp_path):
    """Descriptor 1 would be the next file that is opened, and take what C code prints."""
    lines = [
        "import os",
        "from fastdqn.system.standard_streams import occupy",
        "occupy()",
        "fd = os.open('file', os.O_CREAT | os.O_WRONLY)",
        "raise SystemExit(fd < 3)",
    ]
    command = f'{sys.executable} -c "{"; ".join(lines)}" >&- 2>&- <&-'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env).returncode == 0


LEAVING = """
import threading
import gymnasium
from gymnasium import spaces


class Leaving(gymnasium.Env):
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 1, 0.0, True, False, {}

    def close(self):
        threading.Thread(target=threading.Event().wait, name="simulator").start()


gymnasium.register("Leaving-v0", Leaving)
"""


@pytest.mark.slow
def test_a_thread_that_an_environment_left_does_not_hold_the_program_up(tmp_path):
    (tmp_path / "leaving.py").write_text(LEAVING)
    command = [sys.executable, "-c", "import fastdqn.system.python_threads as t, sys\n"
               "t._END_SECONDS = 0.1\n"
               "from fastdqn.__main__ import main; sys.exit(main())"]  # fmt: skip
    words = ["tabular", "leaving:Leaving-v0", "--total-timesteps", "300", "--quiet"]
    ended = subprocess.run(
        [*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0
    assert ended.stderr.startswith("warning: threads of an environment are still running (sim")
    assert len(ended.stderr.splitlines()) == 1
