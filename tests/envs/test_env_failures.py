"""Environments that raise, die or break their interface are named, and the record is complete."""

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

import fastdqn
from fastdqn import EnvError
from fastdqn.cli import main as cli
from fastdqn.envs import EnvRecipe, EnvStream
from helpers.cost import slow_but
from helpers.loop import small
from helpers.memory_segments import shared_memory


class Fragile(gymnasium.Env):
    """Episodes of 5 steps; the lane seeded with `seed % 4 == 2` does `fail` at `when`: its 13th
    step, or its third reset."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2, start=7)

    def __init__(self, fail: Callable[[], Any], when: str = "step"):
        self.fail, self.when, self.fails = fail, when, False
        self.t = self.age = self.resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.fails = seed % 4 == 2
        self.resets, self.age = self.resets + 1, 0
        if self.fails and self.when == "reset" and self.resets == 3:
            return self.fail(), {}
        return np.zeros(2, np.float32), {}

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        self.t, self.age = self.t + 1, self.age + 1
        if self.fails and self.when == "step" and self.t == 13:
            return self.fail(), 1.0, False, False, {}
        return np.zeros(2, np.float32), 1.0, False, self.age == 5, {}


def raise_():
    raise RuntimeError("boom\nover two lines")


class Unsendable(Exception):
    def __init__(self, code, *, place):
        super().__init__(f"{code} at {place}")
        self.held = lambda: None


def raise_unsendable():
    raise Unsendable(3, place="sea")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def wide():
    return np.zeros(3, np.float32)


def words():
    return np.array(["a", "b"])


FAILURES = [
    (raise_, "step", "RuntimeError: boom over two lines"),
    (raise_, "reset", "RuntimeError: boom over two lines"),
    (raise_unsendable, "step", "Unsendable: 3 at sea"),
    (wide, "step", r"\(3,\)"),
    (words, "step", "<U1|string"),
]
DEATHS = [
    (die, "step", r"its worker process was killed by signal 9 \(SIGKILL\)"),
    (leave, "reset", "its worker process exited with code 3"),
]


@pytest.mark.parametrize(
    ("vectorization", "wait_for", "fail", "when", "says"),
    [
        *slow_but([("sync", None, *failure) for failure in FAILURES], 0, 1),
        *slow_but([("async", None, *failure) for failure in [*FAILURES, *DEATHS]], 0, 5),
        *slow_but([("async", 2, *failure) for failure in [*FAILURES, *DEATHS]]),
        *slow_but([("workers", None, *failure) for failure in [*FAILURES, *DEATHS]], 0, 5),
        *slow_but([("workers", 2, *failure) for failure in [*FAILURES, *DEATHS]]),
    ],
)
def test_the_failed_environment_is_named_and_no_process_remains(
    tmp_path, vectorization, wait_for, fail, when, says
):
    before = shared_memory()
    # A budget that the other environments cannot use up while the one that fails is slow.
    config = small(
        tmp_path, num_envs=4, vectorization=vectorization, env_batch_size=wait_for, seed=11,
        learning_starts=20, eval_frequency=0, total_timesteps=100_000,
    )  # fmt: skip
    with pytest.raises(EnvError, match=says) as caught:
        fastdqn.train(config, lambda: Fragile(fail, when))
    assert not multiprocessing.active_children()
    assert shared_memory() == before
    said = str(caught.value)
    assert "\n" not in said
    lane, step, seed, action = read(said)
    assert seed % 4 == 2
    assert step == (13 if when == "step" else 11)
    assert action in (7, 8)
    if fail is raise_:
        assert "in raise_" in (tmp_path / "run" / "traceback.txt").read_text()
    check_record(tmp_path / "run", said, lane)


def read(said: str) -> tuple[int, int, int, int]:
    """Parses environment, step, seed and last action from an error message."""
    place = said.partition("): ")[0].replace(",", "").replace("(", "").split()
    numbers = [int(word) for word in place if word.isdigit()]
    assert place[::2][:3] == ["env", "step", "seed"]
    assert len(numbers) == 4
    return numbers[0], numbers[1], numbers[2], numbers[3]


def check_record(folder, said: str, lane: int) -> None:
    """Every episode that was over, a last row of metrics, the last weights, the reason."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"] == f"failed: {said}"
    with open(folder / "episodes.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["episodes"]
    assert [row["return"] for row in rows if int(row["lane"]) == lane] == ["5"] * 2
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["time/total_timesteps"] == summary["total_steps"]
    assert (folder / "policy.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_the_command_line_ends_with_the_line_and_code_1(tmp_path, capsys, vectorization):
    gymnasium.register("Fragile-v0", lambda **_: Fragile(raise_))
    asked = f"--num-envs 4 --vectorization {vectorization} --total-timesteps 9000 --quiet "
    asked += "--eval-episodes 1 --run-dir"
    try:
        code = cli.main(["train", "Fragile-v0", *asked.split(), str(tmp_path / "run")])
    finally:
        del gymnasium.registry["Fragile-v0"]
    assert code == 1
    *trace, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: env ")
    assert last.endswith("RuntimeError: boom over two lines")
    assert any("in raise_" in line for line in trace)


@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_an_environment_whose_first_reset_fails_is_one_line_before_anything_is_made(
    tmp_path, vectorization
):
    class Stillborn(Fragile):
        def reset(self, *, seed=None, options=None):
            raise OSError("no display")

    config = small(tmp_path, vectorization=vectorization)
    with pytest.raises(EnvError, match=r"^env 0, reset \(seed 0\): OSError: no display$"):
        fastdqn.train(config, lambda: Stillborn(raise_))
    assert not (tmp_path / "run").exists()


class Numbered(Fragile):
    """Every environment but the first fails at its first step with its own message."""

    def __init__(self, lane):
        super().__init__(raise_)
        self.lane = lane

    def step(self, action):
        if self.lane:
            raise ValueError(f"I am lane {self.lane}")
        return super().step(action)


@pytest.mark.slow
@pytest.mark.parametrize("close_first", [False, True])
def test_one_of_several_simultaneous_failures_is_reported_with_its_own_error(close_first):
    envs = AsyncVectorEnv([lambda lane=lane: Numbered(lane) for lane in range(4)])
    stream = EnvStream(envs)
    stream.start(seed=0)
    stream.send(np.zeros(4, np.int64))
    if not close_first:
        with pytest.raises(EnvError, match=r"^env (\d), step 1 .*I am lane \1$"):
            stream.recv()
    stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_given_processes_can_be_used_again_after_a_run_that_waited_for_some(tmp_path):
    envs = AsyncVectorEnv([lambda: Fragile(raise_, "never")] * 4)
    for name in ("a", "b"):
        config = small(tmp_path, env_batch_size=2, run_dir=str(tmp_path / name))
        run = fastdqn.train(config, envs)
        returns = (run.folder / "episodes.csv").read_text().splitlines()[1:]
        assert {line.split(",")[3] for line in returns} == {"5"}
    obs, _ = envs.reset(seed=3)
    assert obs.shape == (4, 2)
    envs.close()


class MisshapenPart(Fragile):
    """Shared memory would broadcast its second observation without an error."""

    observation_space = spaces.Dict(x=spaces.Box(-1.0, 1.0, (2,)), n=spaces.MultiDiscrete([3, 3]))

    def __init__(self, part, value):
        super().__init__(raise_, "never")
        self.part, self.value = part, value

    def reset(self, *, seed=None, options=None) -> Any:
        return {"x": np.zeros(2, np.float32), "n": np.zeros(2, np.int64)}, {}

    def step(self, action) -> Any:
        obs, info = self.reset()
        return {**obs, self.part: self.value}, 0.0, False, False, info


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "value"), [("x", np.zeros(1, np.float32)), ("n", np.zeros(1, int)), ("n", [0.5, 1.0])]
)
def test_an_observation_outside_its_space_is_rejected_in_a_worker_process(part, value):
    stream = EnvStream(EnvRecipe(lambda: MisshapenPart(part, value), "async").make(2))
    stream.start(seed=0)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=rf"env 0, step 1 .*an observation\['{part}'\] has "):
        stream.recv()
    stream.close()


@pytest.mark.slow
def test_a_failed_final_evaluation_is_recorded(tmp_path):
    def refuse(steps, kind, evaluation):
        if kind == "final":
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fastdqn.train(small(tmp_path), on_evaluation=refuse)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"].startswith("budget spent; the final evaluation failed: Runtime")
    assert "in refuse" in (tmp_path / "run" / "traceback.txt").read_text()


@pytest.mark.parametrize("words", [["train", "Still-v0", "--gama", "0.9"], ["train", "Still-v0"]])
def test_a_failing_reset_prints_no_traceback_of_the_package(words, capsys):
    class Still(Fragile):
        def reset(self, *, seed=None, options=None):
            raise OSError("no display")

    gymnasium.register("Still-v0", lambda **_: Still(raise_))
    try:
        code = cli.main(words)
    finally:
        del gymnasium.registry["Still-v0"]
    said = capsys.readouterr().err.splitlines()
    assert (code, said[-1]) == (
        (2, "error: unknown option '--gama': did you mean --gamma?")
        if len(words) > 2
        else (1, "error: env 0, reset (seed 0): OSError: no display")
    )


@pytest.mark.parametrize("when", ["step", "reset"])
def test_a_failure_in_an_evaluation_environment_is_code_1(tmp_path, capsys, when):
    broken = []
    gymnasium.register(
        "Brittle-v0",
        lambda **_: Fragile(lambda: raise_() if broken else np.zeros(2, np.float32), when),
    )
    try:
        run = fastdqn.train(small(tmp_path, env_id="Brittle-v0", total_timesteps=60))
        broken.append(True)
        code = cli.main(["eval", str(run.folder), "--episodes", "390"])
    finally:
        del gymnasium.registry["Brittle-v0"]
    *trace, last = capsys.readouterr().err.splitlines()
    assert (code, last[:11]) == (1, "error: env ")
    assert last.endswith("RuntimeError: boom over two lines")
    assert any("in raise_" in line for line in trace)


class Hanging(Fragile):
    """Environment 2 stops its own process in the third step."""

    def __init__(self, lane):
        super().__init__(raise_)
        self.lane = lane

    def step(self, action):
        if self.lane == 2 and self.t == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(action)


@pytest.mark.slow
@pytest.mark.parametrize("wait_for", [None, 2])
def test_a_hanging_environment_does_not_prevent_closing(monkeypatch, wait_for):
    monkeypatch.setattr("fastdqn.envs.workers._PATIENCE", 0.2)
    envs = AsyncVectorEnv([lambda lane=lane: Hanging(lane) for lane in range(3)])
    stream = EnvStream(envs, wait_for)
    stream.start(seed=0)
    for calls in range(3):
        stream.send(np.zeros(len(stream.lanes), np.int64))
        if calls < 2:
            stream.recv()
    stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_closing_with_answers_under_way_is_quiet(capfd):
    for _ in range(5):
        stream = EnvStream(AsyncVectorEnv([lambda: Fragile(raise_, "never")] * 4), 2)
        stream.start(seed=0)
        stream.send(np.zeros(2, np.int64))
        stream.close()
    assert capfd.readouterr().err == ""


class Unclosing(Fragile):
    def close(self):
        raise RuntimeError("still in use")


def test_a_failing_close_does_not_lose_the_result(tmp_path):
    run = fastdqn.train(small(tmp_path), lambda: Unclosing(raise_, "never"))
    assert run.summary["exit_reason"] == "budget spent"


def test_a_later_sub_environment_that_cannot_be_made_is_one_line(tmp_path):
    made = []

    def make_env():
        made.append(1)
        if len(made) > 3:
            raise OSError("port in use")
        return Fragile(raise_, "never")

    with pytest.raises(fastdqn.ConfigError, match="make_env cannot be made: OSError: port in use"):
        fastdqn.train(small(tmp_path, vectorization="sync"), make_env)
