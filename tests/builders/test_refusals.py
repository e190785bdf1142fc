"""Every mistake of the user is one line with a remedy, and exit code 2."""

import importlib.util
import os
import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from fastdqn.builders import build, memory_estimate
from fastdqn.config.schema import Config
from fastdqn.files.run_folder import default_run_dir
from fastdqn.system.available_memory import available_bytes
from helpers.command_line import ask, container, refused

pytestmark = pytest.mark.usefixtures("odd_environments", "in_an_empty_folder")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian cartpole", "unknown command 'trian': did you mean train?"),
        ("zzz", "unknown command 'zzz'"),
        ("train cartpol", "unknown preset or environment 'cartpol': did you mean cartpole"),
        ("train Acrobat-v1", "unknown preset or environment 'Acrobat-v1': did you mean"),
        ("train cartpole --env-id Acrobat-v1", "unknown preset or environment 'Acrobat-v1'"),
        ("train nosuchmodule:A-v0", "env_id 'nosuchmodule:A-v0': cannot import 'nosuchmodule'"),
        ("train cartpole --gama 0.9", "unknown option '--gama': did you mean --gamma?"),
        ("train cartpole --no-dubble", "unknown option '--no-dubble': did you mean --no-double?"),
        ("train cartpole --gama=0.9", "unknown option '--gama': did you mean --gamma?"),
        ("train cartpole --env-kwargs x=inf", "env_kwargs is {'x': inf}: it must be names with"),
        ("train cartpole --env-kwargs x=-Infinity --dry-run", "env_kwargs is {'x': -inf}: it must"),
        ("train cartpole --env-kwargs x=NaN", "env_kwargs is {'x': nan}: it must be names with"),
        ("train cartpole --env-kwargs x=[1,1e999]", "env_kwargs is {'x': [1, inf]}: it must be"),
        ("train cartpole 64", "unexpected argument '64': options begin with --"),
        ("train cartpole -n 64", "unexpected argument '-n'"),
        ("train cartpole --seed x", "--seed is 'x': it must be a whole number"),
        ("train cartpole --seed 1.5", "--seed is '1.5': it must be a whole number"),
        ("train cartpole --seed", "--seed has no value: it must be a whole number"),
        ("train cartpole --seed 1 2", "--seed is '1 2': it must be a whole number"),
        ("bench train --against sb4", "--against is 'sb4': it must be one of sb3 or None"),
        ("train cartpole --loss l1", "--loss is 'l1': it must be one of mse, huber"),
        ("train cartpole --train-frequency 1/0", "--train-frequency is '1/0': it must be a number"),
        ("train cartpole --train-frequency 1e999999999", "--train-frequency is '1e999999999'"),
        ("train cartpole --train-frequency 1e-320", "train_frequency is 1/1000"),
        ("train cartpole --double=yes", "--double takes no value, got 'yes'"),
        ("train cartpole --no-double=", "--no-double takes no value"),
        ("train cartpole --gamma 1.5", "gamma is 1.5: it must be a number, at least 0, at most 1"),
        ("train cartpole --gamma nan", "gamma is nan"),
        ("train cartpole --learning-rate -1", "learning_rate is -1.0"),
        ("train cartpole --batch-size 999999", "batch_size is 999999, buffer_size only 100000"),
        ("train", "train needs a preset (cartpole, "),
        ("train --seed 1 cartpole", "train needs a preset"),
        ("presets cartpole", "presets takes no arguments"),
        ("eval", "eval needs the folder of a run"),
        ("eval nowhere", "nowhere/policy.safetensors does not exist"),
    ],
)
def test_a_mistake_is_one_line(command, line):
    (said,) = refused(command)
    assert said.startswith(line)


def test_all_mistakes_are_reported_at_once_one_line_each():
    lines = refused(
        "train cartpole --seed x --gama 1 --gamma 2 --num-envs 0 --loss l1 --device tpu"
    )
    assert [line.split(":")[0] for line in lines] == [
        "--seed is 'x'", "unknown option '--gama'", "--loss is 'l1'", "num_envs is 0",
        "gamma is 2.0", "device is 'tpu'",
    ]  # fmt: skip


def test_what_a_user_types_cannot_break_the_line_or_steer_the_terminal():
    code, _, lines = ask("train", "cartpole", "--run-dir", "\x1b[2J\n" + "n" * 300)
    assert code == 2
    (line,) = lines
    assert line.isprintable()
    assert "\\x1b[2J\\nnnn" in line


def test_a_wrong_name_does_not_hide_the_mistakes_in_the_options():
    lines = refused("train cartpol --seed x --gamma 2")
    assert [line.split()[0] for line in lines] == ["--seed", "gamma", "unknown"]


@pytest.mark.parametrize(
    ("env_id", "remedies"),
    [
        ("Pendulum-v1", ["continuous", "TransformAction"]),
        ("OddMultiDiscrete-v0", ["MultiDiscrete([2 3]) is not Discrete", "TransformAction"]),
        ("OddMultiBinary-v0", ["MultiBinary(3) is not Discrete", "TransformAction"]),
        ("OddDict-v0", ["['note'] is Text", "FilterObservation", "--wrapper my_package:my_wrap"]),
        ("OddText-v0", ["Text", "no fixed number of values", "TransformObservation"]),
        ("OddEmpty-v0", ["has no numbers"]),
        ("OddBoth-v0", ["Graph(", "no fixed number of values", "MultiBinary(3) is not Discrete"]),
        ("OddPackage-v0", ["needs a package", "zbox is missing, run `pip install zbox`"]),
        ("OddImport-v0", ["needs a package", "No module named 'zbox'"]),
        ("OddArgument-v0", ["cannot be made", "'level'"]),
    ],
)
def test_an_environment_that_cannot_be_trained_on_is_refused_with_the_remedy(env_id, remedies):
    (line,) = refused(f"train {env_id}")
    assert [remedy for remedy in remedies if remedy not in line] == []


def test_native_vectorization_is_refused_where_there_is_none():
    (line,) = refused("train Acrobot-v1 --vectorization native")
    assert line.startswith("Acrobot-v1 registers no vector environment: use --vectorization")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_is_refused_where_there_is_none(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = refused(f"train cartpole --device {device}")
    assert line == (
        f"device is '{device}': this machine has 0 CUDA devices. Use --device cpu or auto"
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "mps", "meta"])
def test_a_device_that_is_neither_cpu_nor_cuda_is_refused(device):
    (line,) = refused(f"train cartpole --device {device}")
    assert line.startswith(f"device is '{device}': ")


def test_a_missing_extra_names_the_pip_line(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    (line,) = refused("train cartpole --tensorboard True")
    assert line == "tensorboard is not installed: pip install 'fastdqn[tensorboard]'"
    assert "tensorboard               False" in ask("train", "cartpole", "--dry-run")[1]


def test_a_replay_larger_than_memory_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    root = container(tmp_path / "root", 1 << 30)
    monkeypatch.setattr(memory_estimate, "available_bytes", lambda: available_bytes(root))
    monkeypatch.setattr(build, "build", mock.Mock(side_effect=AssertionError("built anyway")))
    (line,) = refused("train cartpole --buffer-size 1000000000")
    assert "buffer_size is 1000000000: the run needs " in line
    assert "0.5 GiB are available. The largest --buffer-size that fits is about " in line


@pytest.mark.parametrize("more", [(), ("--no-checkpoint-replay",)])
def test_the_size_that_is_said_to_fit_does_fit_and_wastes_little(tmp_path, monkeypatch, more):
    root = container(tmp_path / "root", 1 << 30)
    monkeypatch.setattr(memory_estimate, "available_bytes", lambda: available_bytes(root))
    too_much = " ".join(
        ("train cartpole --num-envs 64 --n-steps 3 --dry-run", *more, "--buffer-size")
    )
    (line,) = refused(f"{too_much} 1000000000")
    (fits,) = re.findall(r"about ([\d,_]+)", line)
    fits = int(re.sub(r"\D", "", fits))
    code, out, _ = ask(*too_much.split(), str(fits))
    assert code == 0
    needed = re.findall(r"(?:replay buffer:|, and) ([\d.,]+) MiB", out)
    assert len(needed) == 2 - len(more)
    assert sum(float(each.replace(",", "")) for each in needed) > 0.99 * 512


@pytest.mark.parametrize(
    ("run_dir", "says"),
    [
        ("full", "full is not empty: give a new or empty folder"),
        ("file", "file is a file: give a new or empty folder"),
        ("file/below", "is a file, not a folder"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_run_folder_that_cannot_be_had_is_refused(run_dir, says, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    (tmp_path / "file").touch()
    (line,) = refused(f"train cartpole --run-dir {run_dir}")
    assert says in line


@pytest.mark.parametrize("run_dir", ["locked", "locked/new", "locked/a/b"])
def test_a_run_folder_that_cannot_be_written_is_refused(run_dir, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    # Not by chmod, since root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    (line,) = refused(f"train cartpole --run-dir {run_dir}")
    assert line.endswith("locked is not writable")


@pytest.mark.slow
def test_a_new_or_empty_run_folder_is_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for run_dir in ("empty", "new", "new/below"):
        assert ask("train", "cartpole", "--dry-run", "--run-dir", run_dir)[0] == 0
    assert not (tmp_path / "new").exists()


def test_a_label_cannot_lead_out_of_the_runs_folder():
    run_dir = default_run_dir(Config(preset="../../elsewhere"))
    assert Path(run_dir).parent == Path("runs")


def test_a_preset_given_as_an_option_is_refused_since_it_would_only_label():
    (line,) = refused("train CartPole-v1 --preset cartpole")
    assert line.startswith("--preset only labels a run: use fastdqn train cartpole")


def test_mistakes_of_every_kind_are_reported_together():
    lines = refused(
        "train CartPol-v1 --seed x --gamma 2 --batch-size 10 --buffer-size 5 --device tpu"
    )
    assert len(lines) == 6


def test_eval_reports_a_bad_option_and_a_missing_run_together():
    lines = refused("eval nowhere --gamma 1 --episodes 0")
    assert [line.split()[0] for line in lines] == [
        "unknown", "episodes", "nowhere/policy.safetensors",
    ]  # fmt: skip


def test_a_line_about_a_word_of_any_length_has_an_end():
    (line,) = refused(f"train cartpole --env-id {'A' * 100_000}")
    assert len(line) < 7_000
    assert "characters omitted" in line
