"""Environments that raise, die or break their word: who it was, and a record up to there."""

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
from test_loop import small

import fastdqn
from fastdqn import EnvError, cli


class Fragile(gymnasium.Env):
    """Episodes of 5 steps; the lane seeded with `seed % 4 == 2` does `fail` at `when`: its 13th
    step, or its third reset."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2, start=7)

    def __init__(self, fail: Callable[[], Any], when: str = "step"):
        self.fail, self.when, self.fails = fail, when, False
        self.t = self.resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.fails = seed % 4 == 2
        self.resets += 1
        if self.fails and self.when == "reset" and self.resets == 3:
            return self.fail(), {}
        return np.zeros(2, np.float32), {}

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        if self.fails and self.when == "step" and self.t == 13:
            return self.fail(), 1.0, False, False, {}
        return np.zeros(2, np.float32), 1.0, False, self.t % 5 == 0, {}


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
    (die, "step", r"its process was killed by signal 9 \(SIGKILL\)"),
    (leave, "reset", "its process exited with code 3"),
]


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


@pytest.mark.parametrize(
    ("vectorization", "wait_for", "fail", "when", "says"),
    [
        *(("sync", None, *failure) for failure in FAILURES),
        *(("async", None, *failure) for failure in [*FAILURES, *DEATHS]),
        *(("async", 2, *failure) for failure in [*FAILURES, *DEATHS]),
    ],
)
def test_the_lane_that_failed_is_named_and_nothing_is_left_of_it(
    tmp_path, vectorization, wait_for, fail, when, says
):
    before = shared_memory()
    config = small(
        tmp_path, num_envs=4, vectorization=vectorization, env_batch_size=wait_for, seed=11,
        learning_starts=20, eval_frequency=0,
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
    """lane, step, seed and last action out of an error's line."""
    place = said.partition("): ")[0].replace(",", "").replace("(", "").split()
    numbers = [int(word) for word in place if word.isdigit()]
    assert place[::2][:3] == ["lane", "step", "seed"]
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


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_command_line_ends_with_the_line_and_code_1(tmp_path, capsys, vectorization):
    gymnasium.register("Fragile-v0", lambda **_: Fragile(raise_))
    asked = f"--num-envs 4 --vectorization {vectorization} --total-timesteps 9000 --quiet --run-dir"
    try:
        code = cli.main(["train", "Fragile-v0", *asked.split(), str(tmp_path / "run")])
    finally:
        del gymnasium.registry["Fragile-v0"]
    assert code == 1
    *trace, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: lane ")
    assert last.endswith("RuntimeError: boom over two lines")
    assert any("in raise_" in line for line in trace)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_whose_first_reset_fails_is_one_line_before_anything_is_made(
    tmp_path, vectorization
):
    class Stillborn(Fragile):
        def reset(self, *, seed=None, options=None):
            raise OSError("no display")

    config = small(tmp_path, vectorization=vectorization)
    with pytest.raises(EnvError, match=r"^lane 0, reset \(seed 0\): OSError: no display$"):
        fastdqn.train(config, lambda: Stillborn(raise_))
    assert not (tmp_path / "run").exists()
