"""The command line: every mistake is a line that says what to do, and exit code 2."""

import contextlib
import importlib.util
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdqn
from fastdqn import api, build, sizes
from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.memory import available_bytes
from fastdqn.presets import PRESETS
from fastdqn.record.folder import default_run_dir
from fastdqn.session import RUN_FAILURES


class Odd(gymnasium.Env):
    """An environment with the spaces it is told to have, which is never stepped."""

    def __init__(self, action_space=None, observation_space=None, error=None):
        if error is not None:
            raise error
        self.action_space = action_space or spaces.Discrete(2)
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)


ODD = {
    "OddMultiDiscrete-v0": {"action_space": spaces.MultiDiscrete([2, 3])},
    "OddMultiBinary-v0": {"action_space": spaces.MultiBinary(3)},
    "OddDict-v0": {
        "observation_space": spaces.Dict({"x": spaces.Discrete(2), "note": spaces.Text(5)})
    },
    "OddText-v0": {"observation_space": spaces.Text(5)},
    "OddEmpty-v0": {"observation_space": spaces.Box(-1, 1, (0,), np.float32)},
    "OddBoth-v0": {
        "action_space": spaces.MultiBinary(3),
        "observation_space": spaces.Graph(spaces.Discrete(5), None),
    },
    "OddPackage-v0": {
        "error": gymnasium.error.DependencyNotInstalled("zbox is missing,\nrun `pip install zbox`")
    },
    "OddImport-v0": {"error": ImportError("No module named 'zbox'")},
    "OddArgument-v0": {"error": TypeError("missing 1 required argument: 'level'")},
}


@pytest.fixture(autouse=True, scope="module")
def odd_environments():
    for env_id, kwargs in ODD.items():
        gymnasium.register(env_id, lambda **given: Odd(**given), kwargs=kwargs)
    yield
    for env_id in ODD:
        del gymnasium.registry[env_id]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(*args: str) -> tuple[int, str, list[str]]:
    """Run a command in this process; returns (exit code, output, lines of error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    return code, out.getvalue(), err.getvalue().splitlines()


def refused(command: str) -> list[str]:
    """Lines of error of a command that must be refused, without their prefix."""
    with mock.patch.object(build, "build", side_effect=AssertionError("accepted")):
        code, out, lines = ask(*command.split())
    assert (code, out) == (2, "")
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian cartpole", "unknown command 'trian': did you mean train?"),
        ("zzz", "unknown command 'zzz'"),
        ("train cartpol", "no preset or environment is called 'cartpol': did you mean cartpole"),
        ("train Acrobat-v1", "no preset or environment is called 'Acrobat-v1': did you mean"),
        ("train cartpole --env-id Acrobat-v1", "no preset or environment is called 'Acrobat-v1'"),
        ("train nosuchmodule:A-v0", "env_id 'nosuchmodule:A-v0': cannot import 'nosuchmodule'"),
        ("train cartpole --gama 0.9", "unknown option '--gama': did you mean --gamma?"),
        ("train cartpole --no-dubble", "unknown option '--no-dubble': did you mean --no-double?"),
        ("train cartpole --gama=0.9", "unknown option '--gama': did you mean --gamma?"),
        ("train cartpole 64", "unexpected argument '64': options begin with --"),
        ("train cartpole -n 64", "unexpected argument '-n'"),
        ("train cartpole --seed x", "--seed is 'x': it must be a whole number"),
        ("train cartpole --seed 1.5", "--seed is '1.5': it must be a whole number"),
        ("train cartpole --seed", "--seed has no value: it must be a whole number"),
        ("train cartpole --seed 1 2", "--seed is '1 2': it must be a whole number"),
        ("train cartpole --loss l1", "--loss is 'l1': it must be one of mse, huber"),
        ("train cartpole --train-frequency 1/0", "--train-frequency is '1/0': it must be a number"),
        ("train cartpole --train-frequency 1e999999999", "--train-frequency is '1e999999999'"),
        ("train cartpole --train-frequency 1e-320", "train_frequency is 1/1000"),
        ("train cartpole --double=yes", "--double is a switch: it takes no value, got 'yes'"),
        ("train cartpole --no-double=", "--no-double is a switch: it takes no value"),
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


def test_all_mistakes_are_told_at_once_one_line_each():
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
    assert [line.split()[0] for line in lines] == ["--seed", "gamma", "no"]


@pytest.mark.parametrize(
    ("env_id", "remedies"),
    [
        ("Pendulum-v1", ["continuous", "TransformAction"]),
        ("OddMultiDiscrete-v0", ["MultiDiscrete([2 3]) is not Discrete", "TransformAction"]),
        ("OddMultiBinary-v0", ["MultiBinary(3) is not Discrete", "TransformAction"]),
        ("OddDict-v0", ["['note'] is Text", "FilterObservation", "--wrapper my_package:my_wrap"]),
        ("OddText-v0", ["Text", "no fixed row of numbers", "TransformObservation"]),
        ("OddEmpty-v0", ["holds no numbers"]),
        ("OddBoth-v0", ["Graph(", "no fixed row", "MultiBinary(3) is not Discrete"]),
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
    assert line.startswith("Acrobot-v1 registers no vector environment of its own: --vectorization")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_is_refused_where_there_is_none(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = refused(f"train cartpole --device {device}")
    assert line == (
        f"device is '{device}': this machine has 0 CUDA devices; use --device cpu or auto"
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


def container(root: Path, limit: int) -> Path:
    """A root folder of a container whose memory is limited, with nothing used yet."""
    for name, text in (
        ("proc/meminfo", f"MemAvailable: {1 << 40} kB"),
        ("proc/self/cgroup", "0::/"),
        ("sys/fs/cgroup/memory.max", str(limit)),
        ("sys/fs/cgroup/memory.current", "0"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_replay_larger_than_memory_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    root = container(tmp_path / "root", 1 << 30)
    monkeypatch.setattr(sizes, "available_bytes", lambda: available_bytes(root))
    monkeypatch.setattr(build, "build", mock.Mock(side_effect=AssertionError("built anyway")))
    (line,) = refused("train cartpole --buffer-size 1000000000")
    assert "buffer_size is 1000000000: the run needs " in line
    assert "0.5 GiB are available; the largest --buffer-size that fits is about " in line


@pytest.mark.parametrize("more", [(), ("--no-checkpoint-replay",)])
def test_the_size_that_is_said_to_fit_does_fit_and_wastes_little(tmp_path, monkeypatch, more):
    root = container(tmp_path / "root", 1 << 30)
    monkeypatch.setattr(sizes, "available_bytes", lambda: available_bytes(root))
    too_much = " ".join(
        ("train cartpole --num-envs 64 --n-steps 3 --dry-run", *more, "--buffer-size")
    )
    (line,) = refused(f"{too_much} 1000000000")
    (fits,) = re.findall(r"about ([\d,_]+)", line)
    fits = int(re.sub(r"\D", "", fits))
    code, out, _ = ask(*too_much.split(), str(fits))
    assert code == 0
    needed = re.findall(r"(?:replay takes|checkpoint) ([\d.,]+) MiB", out)
    assert len(needed) == 2 - len(more)
    assert sum(float(each.replace(",", "")) for each in needed) > 0.99 * 512


@pytest.mark.parametrize(
    ("run_dir", "says"),
    [
        ("full", "full is not empty: name a folder that is new or empty"),
        ("file", "file is a file: name a folder that is new or empty"),
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
    # Not by chmod: who runs the tests as root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    (line,) = refused(f"train cartpole --run-dir {run_dir}")
    assert line.endswith("locked is not writable")


def test_a_new_or_empty_run_folder_is_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for run_dir in ("empty", "new", "new/below"):
        assert ask("train", "cartpole", "--dry-run", "--run-dir", run_dir)[0] == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_the_commands(word):
    code, out, err = ask(word)
    assert (code, err) == (0, [])
    assert [name for name in ("train", "eval", "presets", "--version") if name not in out] == []


def test_without_a_command_the_usage_is_shown_and_the_code_is_2():
    code, out, _ = ask()
    assert code == 2
    assert out.startswith("usage: fastdqn")


@pytest.mark.parametrize("command", ["train --help", "train cartpole -h", "train cartpole --help"])
def test_train_help_lists_every_option_with_its_sentence(command):
    code, out, err = ask(*command.split())
    assert (code, err) == (0, [])
    options = ["--" + name.replace("_", "-") for name in Config.__dataclass_fields__]
    assert [option for option in [*options, "--dry-run"] if option not in out] == []
    assert "Discount per step." in out


def test_help_shows_the_defaults_of_the_preset():
    assert "(default: 475.0)" in ask("train", "cartpole", "--help")[1]


@pytest.mark.parametrize("command", ["eval --help", "eval RUN -h", "presets --help"])
def test_other_commands_have_a_help_too(command):
    code, out, err = ask(*command.split())
    assert (code, err) == (0, [])
    assert "usage: fastdqn" in out


def test_version_is_the_package_s():
    assert ask("--version") == (0, f"fastdqn {fastdqn.__version__}\n", [])


def test_presets_lists_each_with_what_it_changes():
    code, out, _ = ask("presets")
    assert code == 0
    blocks = re.split(r"\n(?=\S)", out.strip())
    assert [block.split("\n")[0] for block in blocks] == list(PRESETS)
    assert "stop_at_return=475.0" in blocks[0]
    assert "gamma" not in out


def test_dry_run_prints_what_is_resolved_and_writes_nothing(tmp_path):
    code, out, err = ask("train", "cartpole", "--dry-run", "--num-envs", "8", "--device", "cpu")
    assert (code, err) == (0, [])
    shown = dict(line.split(None, 1) for line in out.splitlines() if line[:1].isalpha())
    assert shown["num_envs"] == "8"
    assert shown["vectorization"] == "native"
    assert shown["eval_max_steps"] == "500"
    assert shown["log_frequency"] == "1000"
    assert shown["run_dir"].startswith("runs/CartPole-v1__cartpole__1__")
    assert "observations (4,) float32, 2 actions" in out
    assert "each transition is replayed 3.2 times" in out
    assert re.search(r"the replay takes [\d.]+ MiB", out)
    assert not any(tmp_path.iterdir())


def test_a_label_cannot_lead_out_of_the_runs_folder():
    run_dir = default_run_dir(Config(preset="../../elsewhere"))
    assert Path(run_dir).parent == Path("runs")


def test_a_preset_given_as_an_option_is_refused_since_it_would_only_label():
    (line,) = refused("train CartPole-v1 --preset cartpole")
    assert line.startswith("--preset only labels a run: fastdqn train cartpole")


def test_mistakes_of_every_kind_are_told_together():
    lines = refused(
        "train CartPol-v1 --seed x --gamma 2 --batch-size 10 --buffer-size 5 --device tpu"
    )
    assert len(lines) == 6


def test_eval_tells_a_bad_option_and_a_missing_run_together():
    lines = refused("eval nowhere --gamma 1 --episodes 0")
    assert [line.split()[0] for line in lines] == [
        "unknown", "episodes", "nowhere/policy.safetensors",
    ]  # fmt: skip


SUMMARY = {
    "exit_reason": "budget spent", "total_steps": 1, "episodes": 0, "updates": 0,
    "steps_per_second": 1.0, "solved": None, "eval": None,
}  # fmt: skip


@contextlib.contextmanager
def no_training(run=lambda session: SUMMARY):
    """Everything before the training happens; the training itself is `run`."""
    session = SimpleNamespace(
        startup=SimpleNamespace(totals={}),
        recorder=SimpleNamespace(folder=Path("runs/x")),
        close=lambda: None,
    )
    building = mock.patch.object(build, "build", return_value=session)
    with building, mock.patch.object(api, "run_session", run):
        yield


def test_what_a_run_came_to_is_printed_unless_quiet():
    with no_training():
        code, out, _ = ask("train", "cartpole")
        assert code == 0
        assert out.startswith("budget spent after 1 steps")
        assert ask("train", "cartpole", "--quiet") == (0, "", [])


@pytest.mark.parametrize("failure", RUN_FAILURES)
def test_a_run_that_fails_by_its_numbers_is_one_line_and_exit_code_1(failure):
    def run(session):
        raise failure("lane 3, step 7: reward is nan")

    with no_training(run):
        assert ask("train", "cartpole") == (1, "", ["error: lane 3, step 7: reward is nan"])


def test_an_interrupt_is_130_whether_it_was_caught_or_not():
    def run(session):
        raise KeyboardInterrupt

    with no_training(run):
        assert ask("train", "cartpole")[0] == 130
    with no_training(lambda _: {**SUMMARY, "exit_reason": "interrupted"}):
        code, said, _ = ask("train", "cartpole")
    assert code == 130
    assert "\nfastdqn resume " in said  # as what to type next


def test_an_environment_that_exits_the_process_is_no_success():
    def run(session):
        raise SystemExit(3)

    with no_training(run), pytest.raises(SystemExit) as caught:
        ask("train", "cartpole")
    assert caught.value.code == 3


FLAGS = [
    "--" + name.replace("_", "-") for name in (*Config.__dataclass_fields__, "dry_run", "quiet")
]
words = st.one_of(
    st.sampled_from(
        [
            "-1", "0", "1", "3", "64", "1000", "2000000000000", "0.5", "1e-3", "-0.1", "nan", "inf",
            "-inf", "1/3", "1/0", "1e999999999", "None", "True", "False", "auto", "cpu", "cuda",
            "native", "sync", "mse", "huber", "x", "", "--", "-", "-x", "--help", "=",
            "CartPole-v1", "Acrobot-v1", "Pendulum-v1", "OddDict-v0", "nosuchmodule:A-v0",
            "a/b", "..", "--no-", "size=8", "is_slippery=False", "x=(1,)", "x={", "1=2", "=3",
            "FlattenObservation", "TimeLimit", "gymnasium.wrappers:Autoreset", "os:path", ":", "a:",
            "async", "envpool", "ladder", "schedule", "Taxi-v4", "FrozenLake-v1", "*", "[",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)  # fmt: skip
flags = st.one_of(
    st.sampled_from(FLAGS),
    st.sampled_from(FLAGS).map(lambda flag: "--no-" + flag[2:]),
    st.sampled_from(FLAGS).map(lambda flag: flag.replace("-", "_")),
    st.sampled_from(FLAGS).map(lambda flag: flag[:-1]),
    st.tuples(st.sampled_from(FLAGS), words).map("=".join),
)
options = st.tuples(flags, st.lists(words, max_size=2)).map(lambda pair: [pair[0], *pair[1]])
subjects = st.one_of(st.sampled_from([*PRESETS, "CartPole-v1", "FrozenLake-v1", "cartpol"]), words)


def test_envs_of_a_module_lists_what_it_registers_even_if_closing_one_fails():
    class Unclosing(Odd):
        def close(self):
            raise RuntimeError("still open")

    gymnasium.register("Unclosing-v0", lambda **given: Unclosing(**given))
    try:
        code, said, _ = ask("envs", f"{__name__}:")
    finally:
        del gymnasium.registry["Unclosing-v0"]
    assert code == 0
    listed = {line.split()[0] for line in said.splitlines()}
    assert listed == {*ODD, "Unclosing-v0"}


# A thousand command lines in all, with those of the test below.
@settings(max_examples=850, deadline=None)
@given(subjects, st.lists(options, max_size=3))
def test_no_command_line_raises_and_every_refusal_says_why(subject, groups):
    args = [word for group in groups for word in group]
    with no_training():
        code, _, lines = ask("train", subject, *args)
    assert code in (0, 2)
    assert (code == 2) == bool(lines)
    assert all(line.startswith("error: ") for line in lines)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["eval", "presets", "envs", "train", "nonsense"]), st.lists(words, max_size=3)
)
def test_no_other_command_raises_either(command, args):
    with no_training():
        code, _, lines = ask(command, *args)
    assert code in (0, 2)
    assert (code == 2) == bool(lines)


def test_a_line_about_a_word_of_any_length_has_an_end():
    (line,) = refused(f"train cartpole --env-id {'A' * 100_000}")
    assert len(line) < 7_000
    assert "characters left out" in line
