"""Options from files: --config, under those of the command line."""

import json

import pytest

from fastdqn import Config
from fastdqn.cli.config_file import with_file
from fastdqn.cli.main import main
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ResolvedConfig


def options(tmp_path, text, name="cartpole", suffix="toml", rest=()):
    (tmp_path / f"options.{suffix}").write_text(text)
    args = ["--config", str(tmp_path / f"options.{suffix}"), *rest]
    return with_file(name, PRESETS.get(name or "", Config()), args)


def test_a_toml_file_changes_the_options_that_it_names(tmp_path):
    text = 'learning-rate = 1e-3\nhidden_sizes = [32, 32]\ntrain_frequency = "1/2"\n'
    text += "[env_kwargs]\na = 1"
    config, rest, lines = options(tmp_path, text, rest=["--seed", "3"])
    assert (rest, lines) == (["--seed", "3"], [])
    expected = PRESETS["cartpole"].replace(
        learning_rate=1e-3, hidden_sizes=(32, 32), train_frequency="1/2", env_kwargs={"a": 1}
    )
    assert config == expected


def test_a_config_json_gives_all_options_but_the_run_folder(tmp_path):
    stored = PRESETS["acrobot"].replace(run_dir="runs/old", seed=7, learning_rate=3e-4)
    config, _, lines = options(tmp_path, stored.to_json(), suffix="json")
    assert not lines
    assert config == stored.replace(run_dir=None)


def test_an_id_on_the_command_line_wins(tmp_path):
    stored = PRESETS["acrobot"].replace(seed=7)
    config, *_ = with_file(
        "MountainCar-v0", Config(env_id="MountainCar-v0"),
        [f"--config={_written(tmp_path, stored)}"],
    )  # fmt: skip
    assert (config.env_id, config.seed) == ("MountainCar-v0", 7)


def _written(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    return path


@pytest.mark.parametrize(
    ("suffix", "text", "said"),
    [
        ("toml", "learning_rat = 1", "unknown option 'learning_rat': did you mean learning_rate?"),
        ("toml", "num_envs = 'many'", "num_envs is 'many': it must be a whole number"),
        ("toml", "num_envs = ", "is not TOML"),
        ("json", "{", "is not JSON"),
        ("json", "[1]", "is not an object of options"),
        ("json", '{"num_envs": 0}', "num_envs is 0: it must be a number, at least 1"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, capsys, suffix, text, said):
    *_, lines = options(tmp_path, text, suffix=suffix)
    assert len(lines) == 1
    assert said in lines[0]
    assert str(tmp_path / f"options.{suffix}") in lines[0]
    path = str(tmp_path / f"options.{suffix}")
    assert main(["train", "cartpole", "--config", path, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--config"], ["--config", "a", "b"], ["--config", "a", "--config", "b"]]
)
def test_config_takes_one_file(words):
    *_, lines = with_file("cartpole", Config(), words)
    assert lines == ["--config takes one file: --config options.toml"]


def test_the_command_line_wins_over_the_file(tmp_path, capsys):
    path = tmp_path / "options.toml"
    path.write_text('env_id = "Acrobot-v1"\nnum_envs = 4\nseed = 5\n')
    assert main(["train", "--config", str(path), "--num-envs", "2", "--dry-run"]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[:20])
    assert (said["env_id"], said["num_envs"], said["seed"]) == ("Acrobot-v1", "2", "5")


@pytest.mark.slow
def test_a_run_is_repeated_from_its_config(tmp_path):
    words = ["--total-timesteps", "600", "--learning-starts", "100", "--num-envs", "4"]
    words += ["--eval-frequency", "0", "--quiet"]
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["train", "CartPole-v1", *words, "--run-dir", str(first)]) == 0
    config = str(first / "config.json")
    assert main(["train", "--config", config, "--run-dir", str(again), "--quiet"]) == 0
    weights = [(run / "policy.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]
    stored = [json.loads((run / "config.json").read_text()) for run in (first, again)]
    assert {**stored[0], "run_dir": ""} == {**stored[1], "run_dir": ""}
    assert ResolvedConfig.from_json((again / "config.json").read_text())
