"""What cannot be resumed is told in lines, and ends nothing."""

import json
import shutil
from pathlib import Path

import pytest
from test_loop import small

import fastdqn
from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.record.layout import CheckpointError


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "checkpoints"),
        (lambda run: (run / "config.json").unlink(), "config.json"),
        (
            lambda run: edit(run / "config.json", num_envs=8, buffer_size=999, hidden_sizes=[9]),
            "num_envs is 8 in config.json, the checkpoint's is 4",
        ),
    ],
)
def test_what_cannot_be_resumed_is_told_in_lines(tmp_path, capsys, spoil, says):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    spoil(run.folder)
    assert main(["resume", str(run.folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert says in lines[0] + lines[-1]
    assert len(lines) == (3 if "num_envs" in says else 1)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_option_of_the_run_cannot_be_changed_by_resume(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, total_timesteps=300))
    assert main(["resume", str(run.folder), "--num-envs", "8"]) == 2
    assert "a run goes on with the options it had" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_other_offered(tmp_path):
    run = fastdqn.train(small(tmp_path, total_timesteps=600, checkpoint_frequency=200))
    latest = (run.folder / "checkpoints" / "latest").read_text().strip()
    weights = run.folder / "checkpoints" / latest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors.*; checkpoint step-\d+ is whole"
    ):
        fastdqn.resume(run.folder)
    (other,) = {p.name for p in (run.folder / "checkpoints").glob("step-*")} - {latest}
    assert fastdqn.resume(run.folder, checkpoint=other).summary["total_steps"] >= 600


def test_config_carries_the_checkpoint_options():
    assert Config().checkpoint_seconds == 60.0
    assert Config(checkpoint_frequency=0).problems()
    assert Config(checkpoint_seconds=-1.0).problems()
