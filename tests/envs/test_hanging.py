"""Environments that hang are interrupted or killed, and named."""

import itertools
import json
import multiprocessing
import os
import signal
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import fastdqn
from fastdqn import EnvError
from fastdqn.bench import env_speed
from fastdqn.cli import main as cli
from fastdqn.envs import EnvCreation, EnvRecipe, EnvStream, probe_env, watchdog
from fastdqn.envs.watchdog import Watchdog
from helpers.cost import slow_but
from helpers.loop import small


class Hanging(gymnasium.Env):
    """Environment 2, if numbered, hangs in its third step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, hang, lane=2):
        self.hang, self.lane, self.t = hang, lane, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.lane == 2 and self.t == 3:
            self.hang()
        return np.zeros(2, np.float32), 1.0, False, False, {}


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


def spin():
    while True:
        pass


def fall_asleep():
    threading.Event().wait()


@pytest.fixture(autouse=True, scope="module")
def kernels_are_compiled():
    """Probes the environment now, since that takes longer than the limits of these tests."""
    probe_env(EnvRecipe(lambda: Hanging(spin, 0)))


def lanes(hang):
    return [lambda lane=lane: Hanging(hang, lane) for lane in range(3)]


def send_zeros(stream: EnvStream) -> None:
    stream.send(np.zeros(len(stream.lanes), np.int64))


def step_on(stream: EnvStream) -> None:
    while True:
        stream.recv()
        send_zeros(stream)


def wait_for_others(stream: EnvStream, hung: int = 2) -> None:
    for lane, pipe in enumerate(stream.envs.parent_pipes):  # pyright: ignore
        assert lane == hung or lane not in stream.env_calls.unanswered() or pipe.poll(30)


@pytest.mark.parametrize("wait_for", slow_but([None, 3, 2], 2))
def test_a_hanging_process_is_killed_and_named(wait_for):
    stream = EnvStream(AsyncVectorEnv(lanes(stop_itself)), wait_for)
    dog = Watchdog(limit=4.0)
    dog.watch(stream.env_calls)
    stream.start(seed=5)
    while 2 not in stream.lanes or stream._steps[2] < 2:
        send_zeros(stream)
        stream.recv()
    send_zeros(stream)
    wait_for_others(stream)
    for _ in range(4):
        dog.check()  # the limit is not reached yet
    assert 2 in stream.env_calls.unanswered()
    dog.check()
    with pytest.raises(
        EnvError, match=r"^env 2, step 3 \(seed 7, last action 0\): no response for"
    ):
        step_on(stream)
    stream.close()
    assert not multiprocessing.active_children()


def test_finished_environments_do_not_count_as_waiting():
    stream = EnvStream(AsyncVectorEnv(lanes(stop_itself)))
    dog = Watchdog(limit=4.0)
    dog.watch(stream.env_calls)
    stream.start(seed=5)
    send_zeros(stream)
    wait_for_others(stream, hung=-1)
    for _ in range(9):
        dog.check()  # the loop is busy elsewhere, with an evaluation or an update
    assert len(stream.recv().lanes) == 3
    send_zeros(stream)  # which a process that was killed would not hear
    assert len(stream.recv().lanes) == 3
    stream.close()


@pytest.mark.slow
@pytest.mark.parametrize("hang", [spin, fall_asleep])
def test_a_hanging_call_is_interrupted_and_the_record_is_complete(tmp_path, hang):
    config = small(tmp_path, num_envs=3, max_step_seconds=0.5, learning_starts=6, buffer_size=50)
    made = iter(range(99))  # the first one is only probed
    with pytest.raises(EnvError, match=r"^env 1, step 3 \(.*\): no response for 0\.5 s") as caught:
        fastdqn.train(config, lambda: Hanging(hang, next(made)))
    assert f"in {hang.__name__}" in caught.value.trace
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == f"failed: {caught.value}"
    assert (tmp_path / "run" / "policy.safetensors").exists()
    assert f"in {hang.__name__}" in (tmp_path / "run" / "traceback.txt").read_text()
    assert not (tmp_path / "run" / "lock").exists()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def nothing_is_left(tmp_path) -> bool:
    return not (
        (tmp_path / "run").exists()
        or multiprocessing.active_children()
        or "watchdog" in {thread.name for thread in threading.enumerate()}
        or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
    )


@pytest.mark.slow
@pytest.mark.parametrize(("hang", "at"), [(spin, 0), (fall_asleep, 2), (spin, 4)])
def test_an_environment_that_hangs_while_it_is_made_is_interrupted_and_named(tmp_path, hang, at):
    """One is probed first, then three are made for training and two for evaluation."""
    made = iter(range(99))

    def my_lane() -> Any:
        return hang() if next(made) == at else Hanging(hang, 0)

    with pytest.raises(
        EnvError, match=r"^my_lane hangs while it is made: no response for 0\.3 s"
    ) as e:
        fastdqn.train(small(tmp_path, num_envs=3, max_step_seconds=0.3), my_lane)
    assert f"in {hang.__name__}" in e.value.trace
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
def test_a_worker_that_hangs_in_the_constructor_is_killed(tmp_path):
    parent = os.getpid()

    def my_lane() -> Any:
        return Hanging(spin, 0) if os.getpid() == parent else fall_asleep()

    config = small(tmp_path, num_envs=3, max_step_seconds=0.3, vectorization="async")
    with pytest.raises(EnvError, match=r"^my_lane hangs while it is made: no response for 0\.3 s"):
        fastdqn.train(config, my_lane)
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
def test_tabular_reports_an_environment_that_hangs_while_it_is_made(tmp_path, capsys):
    gymnasium.register("Endless-v0", lambda **_: spin())
    words = ["--max-step-seconds", "0.3", "--run-dir", str(tmp_path / "run")]
    try:
        code = cli.main(["tabular", "Endless-v0", *words])
    finally:
        del gymnasium.registry["Endless-v0"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert (code, last) == (
        1,
        "error: Endless-v0 hangs while it is made: no response for 0.3 s (--max-step-seconds)",
    )
    assert nothing_is_left(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of an environment that does not hang."""
    folder = tmp_path_factory.mktemp("runs")
    fastdqn.train(small(folder, total_timesteps=60), lambda: Hanging(spin, 0))
    return folder / "run"


class Drawn(Hanging):
    """One that can be filmed, and hangs in one of its calls."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, call: str):
        super().__init__(spin, 2 if call == "step" else 0)
        self.call = call

    def render(self):
        if self.call == "render":
            spin()
        return np.zeros((16, 16, 3), np.uint8)

    def close(self):
        if self.call == "close":
            spin()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["first making", "second making", "step", "close", "render"])
@pytest.mark.parametrize(
    "words",
    [["eval", "RUN", "--env-id"], ["video", "RUN", "--env-id"], ["bench", "env"]],
    ids=lambda words: words[0],
)
def test_eval_and_video_wait_no_longer(run, tmp_path, capsys, monkeypatch, words, at):
    """The first one is probed and closed, and hangs nowhere else."""
    if words[0] == "video":
        pytest.importorskip("imageio_ffmpeg")
    elif at == "render":
        pytest.skip("draws nothing")
    # Not envpool, whose import takes longer than the time limit of this test.
    monkeypatch.setattr(env_speed, "available", lambda *_: ["sync"])
    made = itertools.count()

    def make(**_) -> Any:
        count = next(made)
        if at == ("first making", "second making", "")[min(count, 2)]:
            spin()
        return Drawn(at if count else "")

    gymnasium.register("Hangs-v0", make, disable_env_checker=True)
    short = {
        "eval": ["--episodes", "1", "--max-steps", "5"],
        "video": ["--episodes", "1", "--max-steps", "5", "--out", str(tmp_path / "film.mp4")],
        "bench": ["--num-envs", "1", "--seconds", "0.002", "--repeats", "1"],
    }[words[0]]
    words = [str(run) if word == "RUN" else word for word in words]
    try:
        code = cli.main([*words, "Hangs-v0", "--max-step-seconds", "0.3", *short])
    finally:
        del gymnasium.registry["Hangs-v0"]
    said = capsys.readouterr().err
    assert nothing_is_left(run)
    if at == "close":  # what was played has been played
        assert (code, said.removeprefix("measuring env ...\n")) == (0, "")  # progress of bench
        return
    where = {
        "step": "env 0, step 3 (", "render": "the environments failed in render() after 0 steps"
    }.get(at, "Hangs-v0 hangs while it is made")  # fmt: skip
    assert code == 1
    assert said.splitlines()[-1].startswith(f"error: {where}")
    assert said.endswith(": no response for 0.3 s (--max-step-seconds)\n")
    assert list(tmp_path.iterdir()) == []


def test_kernels_are_compiled_before_the_time_limit_starts(monkeypatch):
    compiled = []
    monkeypatch.setattr(watchdog, "compile_kernels", lambda: compiled.append("all"))
    creation = EnvCreation("x")
    assert compiled == ["all"]
    assert creation.unanswered() == {}


def be_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.pause()


def train_deaf(config, when: str) -> None:
    watchdog._GRACE = 0.1
    made = iter(range(99))
    make: Any = be_deaf if when == "made" else lambda: Hanging(be_deaf, next(made))
    fastdqn.train(config, make)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("when", "who"), [("stepped", "env 1, step 3 (seed "), ("made", "be_deaf hangs while it is")]
)
def test_a_call_that_ignores_interrupts_ends_the_process_with_a_message_and_a_record(
    tmp_path, capfd, when, who
):
    config = small(tmp_path, num_envs=3, max_step_seconds=0.5, threads=1)
    child = multiprocessing.get_context("fork").Process(target=train_deaf, args=(config, when))
    child.start()
    child.join()
    assert child.exitcode == 1
    said = capfd.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {who}")
    assert last.endswith("no response for 0.5 s (--max-step-seconds)")
    assert "in be_deaf" in said
    if when == "made":
        assert not (tmp_path / "run").exists()
        return
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "failed: " + last.removeprefix("error: ")


def test_a_call_that_returns_at_the_last_moment_is_not_interrupted():
    stream = EnvStream(SyncVectorEnv([lambda: Hanging(spin, 0)]))
    with Watchdog(limit=1e6) as dog:
        dog.watch(stream.env_calls)
        stream.start(seed=0)
        dog._verdict = stream.env_calls, stream.env_calls._count  # it has come back since
        signal.raise_signal(signal.SIGALRM)
        send_zeros(stream)
        assert len(stream.recv().lanes) == 1


def test_an_existing_alarm_handler_is_kept():
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGALRM, own)
    try:
        with Watchdog(limit=1.0):
            assert signal.getsignal(signal.SIGALRM) is own
        assert signal.getsignal(signal.SIGALRM) is own
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_hanging_close_is_interrupted_and_the_run_is_complete(
    tmp_path, monkeypatch, vectorization
):
    """The probed environments are closed too."""
    for module in ("workers", "worker_groups"):
        monkeypatch.setattr(f"fastdqn.envs.{module}._PATIENCE", 0.2)

    class Clinging(Hanging):
        def close(self):
            fall_asleep()

    config = small(
        tmp_path, num_envs=2, vectorization=vectorization, max_step_seconds=0.3, eval_frequency=300
    )
    summary = fastdqn.train(config, lambda: Clinging(spin, 0)).summary
    assert summary["exit_reason"] == "budget spent"
    assert summary["eval"] is not None
    assert not multiprocessing.active_children()


def test_probing_an_environment_restores_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Moving(Hanging):
        def __init__(self):
            super().__init__(spin, 0)
            os.chdir("/")

    probe_env(EnvRecipe(Moving))
    assert os.getcwd() == str(tmp_path)
