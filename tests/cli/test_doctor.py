"""The doctor command: the machine, the files of a run, and the suggested next command."""

import importlib.util
import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import gymnasium
import pytest
import torch

import fastdqn
from fastdqn.checkpoints.loader import checkpoint_names
from fastdqn.cli import doctor
from fastdqn.cli import main as cli
from fastdqn.files.run_lock import RunLock
from helpers.checkpoints import edit_manifest
from helpers.loop import small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = small(tmp_path_factory.mktemp("doctor"), checkpoint_frequency=300, eval_frequency=300)
    return fastdqn.train(config).folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def examine(run) -> tuple[dict[str, str], bool]:
    rows, is_well = doctor.examine_run(run)
    return dict(rows), is_well


def test_everything_that_a_run_depends_on_is_reported(tmp_path):
    found = dict(doctor.examine_machine(tmp_path))
    assert found.keys() >= {
        "versions", "threads", "BLAS", "Numba", "GPU", "memory", "disk", "extras",
    }  # fmt: skip
    for package in ("torch", "gymnasium", "numpy", "numba", "safetensors"):
        assert f"{package} " in found["versions"]
    assert str(tmp_path) in found["disk"]


def test_a_missing_extra_is_reported_with_its_pip_line(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "envpool" else real(name)
    )
    assert "pip install 'fastdqn[envpool]'" in dict(doctor.examine_machine(tmp_path))["extras"]


def test_a_quota_of_processor_time_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    told = dict(doctor.examine_machine(tmp_path))["threads"]
    assert "control group quota 1.5 cores" in told


def test_every_extra_is_looked_for():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].keys()
    assert doctor._EXTRAS.keys() == extras - {"all", "dev", "docs"}


def test_a_whole_run_can_be_resumed(run):
    found, is_well = examine(run)
    assert is_well
    names = checkpoint_names(run)
    assert len(names) == 2
    assert [found[f"checkpoint {name}"].startswith("intact, ") for name in names] == [True] * 2
    assert found[f"checkpoint {names[-1]}"].endswith(", the latest")
    assert found["options"].endswith("ended: budget spent")
    assert found["next"] == (
        f"finished: fastdqn eval {run}, or to continue training fastdqn resume {run} "
        "--total-timesteps 1400"
    )


def test_a_damaged_checkpoint_is_reported_by_file_and_the_other_is_offered(run, capsys):
    old, new = checkpoint_names(run)
    (run / "checkpoints" / new / "weights.safetensors").write_bytes(b"")
    found, is_well = examine(run)
    assert not is_well
    assert f"{new}/weights.safetensors: size: " in found[f"checkpoint {new}"]
    assert found["next"] == f"fastdqn resume {run} --checkpoint {old}"
    assert cli.main(["doctor", str(run)]) == 1
    assert "weights.safetensors: size: " in capsys.readouterr().out


def test_without_a_whole_checkpoint_weights_or_the_command_are_left(run):
    shutil.rmtree(run / "checkpoints")
    assert examine(run)[0]["next"] == f"fastdqn eval {run}"
    (run / "best.safetensors").write_bytes(b"x")
    (run / "policy.safetensors").write_bytes(b"x")
    found, is_well = examine(run)
    assert not is_well
    assert found["next"] == f"train again with the command in {run / 'command.txt'}"
    assert "best.safetensors" in found["best.safetensors"]


@pytest.mark.slow
def test_who_holds_the_lock_is_reported(run):
    with RunLock(run):
        found, _ = examine(run)
        said = json.loads((run / "lock").read_text())
    assert found["lock"] == f"held by process {os.getpid()}, which is running"
    assert found["next"].startswith("wait for that process")
    (run / "lock").write_text(json.dumps(said | {"machine": "another", "host": "elsewhere"}))
    found, _ = examine(run)
    assert re.fullmatch(
        r"held by process \d+ on 'elsewhere', which last renewed it 0 s ago", found["lock"]
    )
    assert found["next"].startswith("wait for that process")
    (run / "lock").write_text(json.dumps(said))
    found, _ = examine(run)
    assert found["lock"].endswith("which has ended")
    assert found["next"].startswith("finished")


def test_a_config_that_lies_is_reported_and_nothing_of_it_is_imported(run):
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"env_id": "evil_module:Evil-v0"}))
    found, _ = examine(run)
    assert "evil_module:Evil-v0" in found["options"]
    (run / "config.json").write_text("{")
    found, is_well = examine(run)
    assert not is_well
    assert found["options"].startswith(str(run / "config.json"))


@pytest.mark.parametrize(
    ("words", "line"),
    [(["/no/such"], "error: /no/such is not a folder: give the folder of a run\n"),
     (["a", "b"], "error: doctor takes one folder of a run, got 'a b'\n")],
)  # fmt: skip
def test_mistakes_are_one_line(words, line, capsys):
    assert cli.main(["doctor", *words]) == 2
    assert capsys.readouterr().err == line


def test_text_of_the_user_is_one_line_and_does_nothing_to_the_terminal(run, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"preset": "a\x1b[31m\nb"}))
    (run / "summary.json").write_text('{"exit_reason": "c\x1b[32md",\n}')
    cli.main(["doctor", str(run)])
    said = capsys.readouterr().out
    assert "a\\x1b[31m\\nb" in said
    assert "c\\x1b[32md" in said
    assert "\x1b" not in said


def stopped(tmp_path, *given, **options) -> Path:
    """A run that a hook has ended, so that there is something to go on with."""
    config = small(tmp_path, checkpoint_frequency=100, total_timesteps=2_000)
    options = {"on_step": lambda progress, step: progress.steps < 300, **options}
    return fastdqn.train(config, *given, **options).folder


@pytest.mark.slow
def test_an_interrupted_run_can_be_resumed_as_it_says(tmp_path, capsys):
    run = stopped(tmp_path)
    told = examine(run)[0]["next"]
    assert told == f"fastdqn resume {run}"
    assert cli.main([*told.split()[1:], "--quiet"]) == 0


def make_corridor():
    return gymnasium.make("CartPole-v1")


@pytest.mark.slow
@pytest.mark.parametrize(("given", "options"), [
    ((make_corridor,), {}),
    ((gymnasium.vector.SyncVectorEnv([make_corridor] * 4),), {}),
    ((), {"torso": torch.nn.Linear(4, 8)}),
])  # fmt: skip
def test_what_was_handed_in_is_no_resume_for_the_command_line(tmp_path, given, options, capsys):
    run = stopped(tmp_path, *given, **options)
    assert examine(run)[0]["next"].startswith("resume from Python, with ")
    assert cli.main(["resume", str(run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("change", "says"), [
    ({"env_id": "no_such_module:Evil-v0"}, "its module 'no_such_module' is not installed here"),
    ({"sampler": "no_such_module:Evil"}, "sampler 'no_such_module:Evil': its module"),
    ({"wrapper": ["planted:Evil"]}, "its module lies inside the run folder"),
    ({"device": "cuda:77", "learner": "torch"}, "this machine has"),
])  # fmt: skip
def test_a_resume_that_would_be_refused_is_not_recommended(
    tmp_path, monkeypatch, change, says, capsys
):
    run = stopped(tmp_path)
    (run / "planted.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(str(run))
    for name in checkpoint_names(run):
        edit_manifest(
            run, int(name[5:]), lambda manifest: manifest["config"]["config"].update(change)
        )
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | change))
    assert says in examine(run)[0]["next"]
    assert cli.main(["resume", str(run)]) == 2
    (run / "config.json").write_text(json.dumps(values | change | {"gamma": 0.5}))
    assert "gamma is 0.5 in config.json" in examine(run)[0]["next"]


@pytest.mark.parametrize("command", ["doctor", "resume"])
def test_a_name_that_no_folder_can_have_is_one_line(command, capsys):
    assert cli.main([command, "x" * 5000]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("is not a folder: give the folder of a run")


def test_without_a_run_the_machine_is_reported(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("versions ")
