"""Non-finite numbers and lack of memory in a run."""

import json

import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.builders import build
from fastdqn.checkpoints.loader import checkpoint_names, load_checkpoint
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.cli import main as cli
from fastdqn.learning.learner import Learner
from fastdqn.learning.out_of_memory import OutOfMemoryError, memory_errors
from fastdqn.logging.console import Silent
from fastdqn.session import run_session
from fastdqn.training.loop import DivergedError, Hooks
from helpers.loop import small
from helpers.setups import setup_of


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
@pytest.mark.parametrize("looks", [{"eval_frequency": 100}, {"checkpoint_frequency": 100}])
def test_non_finite_weights_end_the_run_before_they_are_saved(tmp_path, number, looks):
    """They become non-finite after a last finite loss."""
    config = small(tmp_path, learner="torch", log_frequency=100_000, **looks)

    def spoil(progress, batch, priority):
        if progress.steps >= 296:
            session.run.learner.online.weights[3] = number

    session = build.build(setup_of(config), lambda _: Silent(), hooks=Hooks(on_update=spoil))
    expected = rf"^a weight is {abs(number)} at update 6\d, step 30\d\. "
    with pytest.raises(DivergedError, match=expected):
        run_session(session)
    folder = tmp_path / "run"
    for name in ("best.safetensors", "policy.safetensors"):
        if (folder / name).exists():
            assert all(np.isfinite(each).all() for each in load_weights(folder / name)[0].values())
    for name in checkpoint_names(folder):
        assert np.isfinite(load_checkpoint(folder, name).weights["weights"]).all()
    kept = "best.safetensors" if "eval_frequency" in looks else "checkpoints/latest"
    assert (folder / kept).exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"].startswith("failed: a weight is ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB. GPU 0 has\nmore"),
         "cpu is out of memory: CUDA out of memory. Tried 2 GiB. Use a smaller --batch-size or"),
        (MemoryError("Unable to allocate 9 GiB"), "this machine is out of memory (Unable to"),
    ],
)  # fmt: skip
def test_running_out_of_memory_is_one_line_and_code_1(tmp_path, monkeypatch, capsys, error, says):
    def update(self, batch):
        raise error

    monkeypatch.setattr(Learner, "update", update)
    words = ["--total-timesteps", "3000", "--quiet", "--run-dir", str(tmp_path / "run")]
    assert cli.main(["train", "cartpole", *words]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {says}")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "failed: " + said.removeprefix("error: ")


def test_a_device_that_was_not_chosen_yet_is_not_called_auto():
    expected = pytest.raises(OutOfMemoryError, match=r"^the device is out of memory: CUDA out of")
    with expected, memory_errors("auto"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_first_run_without_faults_ends_well(tmp_path):
    """What the other tests spoil is what this leaves whole."""
    run = fastdqn.train(small(tmp_path, on_disk_error="continue", max_step_seconds=None))
    assert run.summary["exit_reason"] == "budget spent"
    assert run.summary["restarted_envs"] == 0
    assert run.summary["warnings"] == []
