"""The record and the messages of a run when its environment or disk fails."""

import errno
import importlib.util
import json
import os
import shutil
import signal
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn import ConfigError, tabular_run
from fastdqn.builders import build
from fastdqn.cli import main as cli
from fastdqn.envs import EnvError, EnvRecipe, EnvStream, NonFiniteError
from fastdqn.files import atomic_write
from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.logging.console import PlainLines, Unfailing
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler
from helpers.loop import Poisoned, small


class Failing(gymnasium.Env):
    """Does what `fail` does at its fifth step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fail):
        self.fail, self.t = fail, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        if self.t == 5:
            self.fail()
        return np.zeros(2, np.float32), 1.0, False, False, {}


def summary_of(tmp_path) -> dict:
    return json.loads((tmp_path / "run" / "summary.json").read_text())


def raise_(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (SystemExit(0), "SystemExit: 0"),
        (KeyError("k"), "KeyError: 'k'"),
    ],
)
def test_a_failing_environment_is_recorded_in_the_summary(tmp_path, error, said):
    envs = SyncVectorEnv([lambda: Failing(lambda: raise_(error))] * 4)
    with pytest.raises(EnvError, match=said):
        fastdqn.train(small(tmp_path), envs)
    reason = summary_of(tmp_path)["exit_reason"]
    assert reason.startswith("failed: env 0, step 5 (seed ")
    assert reason.endswith(said)
    assert said in (tmp_path / "run" / "traceback.txt").read_text()


def test_an_environment_that_exits_the_program_is_a_failure(tmp_path, capsys):
    gymnasium.register("Leaving-v0", lambda **_: Failing(lambda: raise_(SystemExit(0))))
    words = ["--total-timesteps", "2000", "--num-envs", "4", "--quiet", "--run-dir"]
    try:
        assert cli.main(["train", "Leaving-v0", *words, str(tmp_path / "run")]) == 1
    finally:
        del gymnasium.registry["Leaving-v0"]
    assert "error: env 0, step 5 (seed " in capsys.readouterr().err.splitlines()[-1]


def test_a_constructor_that_raises_is_one_line_with_the_id(capsys):
    gymnasium.register("Broken-v0", lambda **_: raise_(RuntimeError("no ROM\nhere")))
    try:
        assert cli.main(["train", "Broken-v0"]) == 2
    finally:
        del gymnasium.registry["Broken-v0"]
    assert capsys.readouterr().err == (
        "error: Broken-v0 cannot be made: RuntimeError: no ROM here\n"
    )


def test_bad_numbers_in_the_final_evaluation_are_named_and_recorded(tmp_path):
    envs, eval_envs = (SyncVectorEnv([lambda b=b: Poisoned(b)] * 4) for b in (1.0, float("nan")))
    with pytest.raises(NonFiniteError, match="in an evaluation: env 0, step 10: reward is nan"):
        fastdqn.train(small(tmp_path, eval_max_steps=50), envs, eval_envs=eval_envs)
    assert summary_of(tmp_path)["eval"] is None
    assert (tmp_path / "run" / "policy.safetensors").exists()


def test_sigterm_saves_the_weights(tmp_path, capsys):
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    gymnasium.register("Ending-v0", lambda **_: Failing(terminate))
    # More than it ever makes: the signal is heard by a thread, sooner or later.
    words = ["--total-timesteps", "1000000000", "--num-envs", "1", "--quiet", "--run-dir"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["train", "Ending-v0", *words, str(tmp_path / "run")]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
        del gymnasium.registry["Ending-v0"]
    assert summary_of(tmp_path)["exit_reason"] == "interrupted"
    assert (tmp_path / "run" / "policy.safetensors").exists()


def test_a_full_disk_is_one_line_with_path_and_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: raise_(OSError(28, "No space left on device")))
    with pytest.raises(
        WriteError, match=r"cannot write .*x\.json: No space .* bytes free, 2 needed"
    ):
        write_whole(tmp_path / "x.json", "{}")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_reusable_after_a_failed_start(tmp_path, monkeypatch):
    replace = atomic_write.replace_file
    monkeypatch.setattr(
        atomic_write,
        "replace_file",
        lambda path, data: (
            raise_(OSError(28, "No space left on device"))
            if path.name == "system.json"
            else replace(path, data)
        ),
    )
    with pytest.raises(ConfigError, match=r"system\.json: No space"):
        fastdqn.train(small(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "tabular"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_that_does_not_begin_leaves_its_folder_as_it_was(
    tmp_path, monkeypatch, capsys, command, is_there
):
    """Its lines of metrics are open by then."""
    module = build if command == "train" else tabular_run
    monkeypatch.setattr(
        module, "make_best_weights", lambda *_: raise_(WriteError("cannot write x"))
    )
    run = tmp_path / "new" / "run"
    if is_there:
        run.mkdir(parents=True)
    code = cli.main([command, "CartPole-v1", "--run-dir", str(run), "--quiet"])
    assert (code, capsys.readouterr().err) == (1, "error: cannot write x\n")
    assert list(tmp_path.rglob("*")) == ([run.parent, run] if is_there else [])


def test_a_closed_terminal_does_not_end_a_run():
    asked = []

    class Gone:
        def print(self, text, **_):
            asked.append(text)
            raise BrokenPipeError(32, "Broken pipe")

    Unfailing(PlainLines(Gone())).say("anything")  # pyright: ignore
    assert asked == ["anything"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda envs: {"envs": envs, "eval_envs": envs}, "eval_envs is envs"),
        (lambda envs: {"envs": gymnasium.make("CartPole-v1")}, "envs is of type "),
        (
            lambda envs: {"envs": envs, "eval_envs": EnvRecipe("Acrobot-v1").make(2)},
            "eval_envs have other spaces",
        ),
    ],
)
def test_unsuitable_given_environments_are_rejected(tmp_path, make, says):
    envs = gymnasium.make_vec("CartPole-v1", 4)
    with pytest.raises(ConfigError, match=says):
        fastdqn.train(small(tmp_path), **make(envs))


class Deaf(SyncVectorEnv):
    """Declares DISABLED, but resets every environment if one is to be reset."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class Short(Failing):
    def __init__(self, length):
        super().__init__(lambda: None)
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t, np.float32), 1.0, self.t == self.length, False, {}


def test_a_reset_that_ignores_its_mask_is_detected():
    envs = Deaf([lambda: Short(2), lambda: Short(5)], autoreset_mode=AutoresetMode.DISABLED)
    stream = EnvStream(envs)
    stream.start(0)
    stream.send(np.zeros(2, np.int64))
    stream.recv()
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match="env 1: a reset of other sub-environments changed it"):
        stream.recv()


def test_a_replay_of_mismatched_parts_or_a_batch_of_another_layout_is_rejected():
    with pytest.raises(ValueError, match="16 slots, but the ring has 4 x 100"):
        Replay(Ring(4, 100), RowStore(2, 8, (3,), np.float32), UniformSampler(0))
    replay = Replay(Ring(1, 9), RowStore(1, 9, (3,), np.float32), UniformSampler(0))
    replay.start([0], [[0.0, 0.0, 0.0]])
    replay.add([0], [0], [1.0], [[1.0, 1.0, 1.0]])
    batch = replay.new_batch(4)
    replay.sample(batch)
    for wrong in (
        batch._replace(reward=batch.reward[:1]),
        batch._replace(obs=batch.obs.astype(np.float64)),
        batch._replace(action=np.zeros(8, np.int64)[::2]),
    ):
        with pytest.raises(ValueError, match="of the batch has"):
            replay.sample(wrong)


@pytest.mark.parametrize("which", ["metrics.jsonl", "episodes.csv", "eval.jsonl"])
def test_a_full_disk_under_a_file_that_grows_is_one_line(tmp_path, monkeypatch, capsys, which):
    real = os.write

    def write(fd, data):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(which):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    words = ["--total-timesteps", "2000", "--eval-frequency", "500", "--quiet", "--run-dir"]
    assert cli.main(["train", "cartpole", *words, str(tmp_path / "run")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: cannot write {tmp_path}/run/{which}: No space left on device; ")
    assert said.endswith(" needed")


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="an extra")
def test_a_deleted_run_folder_is_one_line_with_tensorboard_too(tmp_path):
    folder = tmp_path / "run"

    def remove(progress, step):
        # Errors are ignored, since a checkpoint may be written meanwhile.
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(WriteError, match=r"cannot write .*No such file"):
        fastdqn.train(small(tmp_path, tensorboard=True), on_step=remove)
