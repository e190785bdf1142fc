"""Options from files: --config, under those of the command line."""

import json

import pytest

from fastdqn import Config
from fastdqn.cli import commands
from fastdqn.cli.config_file import named_in_file, with_file
from fastdqn.cli.main import main
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ResolvedConfig
from fastdqn.study.study_folder import Study, Variant, write_study


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


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("json", '{"learning-rate": 1e-3, "hidden_sizes": [32, 32]}'),
     ("toml", "learning-rate = 1e-3\nhidden_sizes = [32, 32]")],
)  # fmt: skip
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_short_json_file_changes_a_preset_as_toml_does(tmp_path, suffix, text, mark):
    config, _, lines = options(tmp_path, mark + text, suffix=suffix)
    assert not lines
    assert config == PRESETS["cartpole"].replace(learning_rate=1e-3, hidden_sizes=(32, 32))
    named = named_in_file(["--config", str(tmp_path / f"options.{suffix}")])
    assert named == {"learning_rate", "hidden_sizes"}


def test_the_config_json_of_an_older_run_gives_all_its_options(tmp_path):
    stored = json.loads(PRESETS["acrobot"].replace(seed=7).to_json())
    stored["restart_lanes"] = stored.pop("restart_envs")
    del stored["info_keys"], stored["workers"]
    config, _, lines = options(tmp_path, "\ufeff" + json.dumps(stored), suffix="json")
    assert not lines
    assert config == PRESETS["acrobot"].replace(seed=7)


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
        ("json", '{"num_envs": "0"}', "num_envs is '0': it must be a whole number"),
        ("json", '{"seed": 1, "seed": 2}', "'seed' is there more than once: leave one out"),
        ("json", '{"env_kwargs": {"a": 1, "a": 2}}', "'a' is there more than once"),
        ("json", '{"num-envs": 1, "num_envs": 2}', "'num_envs' is there more than once"),
        ("toml", "num-envs = 1\nnum_envs = 2", "'num_envs' is there more than once"),
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


def test_a_folder_in_place_of_a_file_names_the_file(tmp_path):
    def line(path):
        *_, (line,) = with_file("cartpole", Config(), ["--config", str(path)])
        return line.removeprefix(f"config is {str(path)!r}, ")

    study, run = tmp_path / "study", tmp_path / "study" / "base" / "seed-1"
    run.mkdir(parents=True)
    assert line(tmp_path) == "a folder, and not a file. Use --config RUN/config.json"
    write_study(study, Study("cartpole", (), (Variant("base", ()),), (1,)))
    named = f"a study: name one of its runs, {run}. Use --config RUN/config.json"
    assert line(study) == named
    (run / "config.json").touch()
    assert line(run) == f"a run: use --config {run}/config.json"


@pytest.mark.parametrize("words", [["--config="], ["--config", ""]])
def test_an_empty_name_is_no_file(words):
    *_, lines = with_file("cartpole", Config(), words)
    assert lines == ["config is empty: name a file, --config options.toml"]


def test_a_toml_file_names_options_and_a_config_json_none(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("learning-rate = 1\nrestart_lanes = 2")
    assert named_in_file(["--seed", "1", "--config", str(path)]) == {
        "learning_rate",
        "restart_envs",
    }
    assert named_in_file([f"--config={path}"]) == {"learning_rate", "restart_envs"}
    assert named_in_file(["--config", str(_written(tmp_path, PRESETS["taxi"]))]) == set()
    path.write_text("learning-rate = ")
    for words in (["--config", str(path)], ["--config"], ["--config", "none.toml"], []):
        assert named_in_file(words) == set()


def test_the_command_line_wins_over_the_file(tmp_path, capsys):
    path = tmp_path / "options.toml"
    path.write_text('env_id = "Acrobot-v1"\nnum_envs = 4\nseed = 5\n')
    assert main(["train", "--config", str(path), "--num-envs", "2", "--dry-run"]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[:20])
    assert (said["env_id"], said["num_envs"], said["seed"]) == ("Acrobot-v1", "2", "5")


@pytest.fixture
def reached(monkeypatch):
    """Replaces what bench and profile do. Yields their configs."""
    found: list[Config] = []
    monkeypatch.setattr(
        commands, "bench_run", lambda part, configs, lines, **_: found.extend(configs)
    )
    monkeypatch.setattr(commands, "profile_run", lambda config, lines, **_: found.append(config))
    return found


BENCH_AND_PROFILE = pytest.mark.parametrize("words", [["bench", "train"], ["profile"]])


@BENCH_AND_PROFILE
def test_bench_and_profile_take_a_file(reached, tmp_path, words):
    path = tmp_path / "options.toml"
    path.write_text("num_envs = 4\nbatch_size = 48\nrun_dir = '/'")
    for name in ([], ["acrobot"]):
        assert main([*words, *name, "--config", str(path), "--num-envs", "2"]) == 0
    changes = {"num_envs": 2, "batch_size": 48}
    assert reached == [each.replace(**changes) for each in (Config(), PRESETS["acrobot"])]
    stored = _written(tmp_path, PRESETS["taxi"].replace(run_dir="runs/old"))
    assert main([*words, "--config", str(stored)]) == 0
    assert reached[2] == PRESETS["taxi"]


def test_bench_takes_a_file_and_several_numbers_of_environments(reached, tmp_path):
    stored = _written(tmp_path, PRESETS["taxi"])
    assert main(["bench", "act", "--num-envs", "1", "8", "--config", str(stored)]) == 0
    assert reached == [PRESETS["taxi"].replace(num_envs=count) for count in (1, 8)]


@pytest.mark.parametrize("words", [["bench", "train"], ["profile"], ["sweep"]])
def test_a_bad_file_is_one_line_of_other_commands_too(tmp_path, capsys, words):
    pytest.importorskip("optuna")
    path = tmp_path / "options.toml"
    path.write_text("learning_rat = 1")
    out = [] if words[0] == "sweep" else ["--out", str(tmp_path / "out")]
    assert main([*words, "--config", str(path), *out]) == 2
    line = f"{path}: unknown option 'learning_rat': did you mean learning_rate?"
    assert capsys.readouterr().err.splitlines() == [f"error: {line}"]


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
