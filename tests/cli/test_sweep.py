"""Sweep: what is tried, what a file remembers, and what is said of mistakes."""

import re
import shlex
from types import SimpleNamespace

import pytest

from fastdqn.cli import parser, sweep
from fastdqn.cli.main import main
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.sweep_trial import train_once
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from fastdqn.training.loop import DivergedError
from helpers.sweeps import run

pytest.importorskip("optuna")


def test_the_presets_own_settings_are_tried_first(trained, tmp_path):
    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 0
    own = PRESETS["cartpole"]
    for name in sweep.SPACE:
        if name != "exploration_final_eps":  # the preset leaves it to be settled
            assert getattr(trained[0], name) == getattr(own, name), name
    assert trained[0].exploration_final_eps == 0.05


def test_a_trial_prints_the_mean_return_of_each_seed(trained, tmp_path, capsys):
    assert run(tmp_path, "--trials", "1", "--seeds", "2") == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("  1 of 1")]
    assert "  mean return 8  7  --learning-rate 0.008" in line


def test_the_best_is_named_by_its_return_and_settings_alone(trained, tmp_path, capsys):
    """Trials are counted as they finish, and Optuna numbers them from 0, interrupted ones too."""
    assert run(tmp_path, "--trials", "2", "--seeds", "1") == 0
    *_, first, second, best, command, _ = capsys.readouterr().out.splitlines()
    assert "trial" not in best
    (value,) = re.findall(r"^best of 2: mean return (\S+)$", best)
    (row,) = [line for line in (first, second) if f"  mean return {value}  " in line]
    assert command.endswith(row.partition(f"{value}  ")[2])


def test_each_setting_is_run_with_as_many_seeds_as_are_asked_for(trained, tmp_path):
    assert run(tmp_path, "--trials", "2", "--seeds", "3") == 0
    assert [config.seed for config in trained] == [1_001, 1_002, 1_003] * 2
    settings = [config.replace(seed=0, run_dir=None) for config in trained]
    assert settings[0] == settings[1] == settings[2] != settings[3] == settings[5]


@pytest.mark.slow
def test_what_is_given_is_not_searched(trained, tmp_path):
    assert run(tmp_path, "--trials", "6", "--gamma=0.9", "--batch-size", "48") == 0
    assert {(config.gamma, config.batch_size) for config in trained} == {(0.9, 48)}
    assert len({config.learning_rate for config in trained}) > 1


def test_only_what_is_named_is_searched(trained, tmp_path):
    assert run(tmp_path, "--trials", "6", "--search", "gamma") == 0
    assert len({config.gamma for config in trained}) > 1
    assert {config.learning_rate for config in trained} == {PRESETS["cartpole"].learning_rate}


def test_a_bad_setting_is_not_run_with_all_seeds(trained, tmp_path, capsys):
    assert run(tmp_path, "--trials", "12", "--search", "learning_rate", "--seeds", "2") == 0
    cut = [line for line in capsys.readouterr().out.splitlines() if "(cut)" in line]
    assert cut
    assert len(trained) == 2 * 12 - len(cut)


@pytest.mark.slow
def test_the_same_command_continues_and_draws_other_settings(trained, tmp_path):
    assert run(tmp_path, "--trials", "3", "--seeds", "1") == 0
    assert run(tmp_path, "--trials", "3", "--seeds", "1") == 0
    assert len(trained) == 3
    assert run(tmp_path, "--trials", "6", "--seeds", "1") == 0
    assert len(trained) == 6
    assert len({config.learning_rate for config in trained}) == 6


@pytest.mark.slow
def test_an_interrupted_trial_does_not_count(trained, tmp_path, monkeypatch):
    whole, answers = sweep.api.train, iter(["interrupted"])

    def interrupted(config):
        summary = whole(config).summary
        return SimpleNamespace(summary=summary | {"exit_reason": next(answers, "budget spent")})

    monkeypatch.setattr(sweep.api, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("cartpole", ["--out", str(tmp_path / "s.journal"), "--trials", "2"])
    assert len(trained) == 1
    assert run(tmp_path, "--trials", "2", "--seeds", "2") == 0
    assert len(trained) == 1 + 2 * 2


def test_a_setting_that_diverges_is_a_bad_one(trained, tmp_path, monkeypatch, capsys):
    def diverges(config):
        raise DivergedError("the loss is nan at step 7")

    monkeypatch.setattr(sweep.api, "train", diverges)
    assert run(tmp_path, "--trials", "2") == 1
    out = capsys.readouterr().out
    assert out.count("no result (the loss is nan at step 7)") == 2
    assert "no setting has a result" in out


def test_a_trial_writes_nowhere(trained, tmp_path):
    train_once(Config(wandb=True, tensorboard=True, checkpoint_frequency=5), tmp_path)
    (config,) = trained
    told = config.wandb, config.tensorboard, config.checkpoint_frequency, config.checkpoint_seconds
    assert told == (False, False, None, None)


@pytest.mark.slow
def test_what_was_cut_or_diverged_with_a_later_seed_is_not_the_best(
    trained, tmp_path, monkeypatch, capsys
):
    whole = sweep.api.train

    def diverges(config):
        if config.learning_rate > 4e-3 and config.seed > sweep.FIRST_SEED:
            raise DivergedError("the loss is nan at step 7")
        return whole(config)

    monkeypatch.setattr(sweep.api, "train", diverges)
    assert run(tmp_path, "--trials", "12", "--search", "learning_rate") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("(the loss is nan" in line for line in lines)
    told = next(line for line in lines if line.startswith("  fastdqn train"))
    assert float(told.split()[-1]) <= 4e-3


@pytest.mark.slow
def test_what_is_found_is_the_command_that_was_run(trained, tmp_path, capsys):
    assert run(tmp_path, "--trials", "8", "--seeds", "1", "--quiet", "--tau", "0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # the result alone
    words = shlex.split(lines[1])
    assert words[:3] == ["fastdqn", "train", "cartpole"]
    chosen, mistakes = parser.parse(words[3:], TrainOptions(PRESETS["cartpole"]), "")
    assert mistakes == []
    best = max(trained, key=lambda config: config.learning_rate)
    for name in (*sweep.SPACE, "tau"):
        assert getattr(chosen.config, name) == getattr(best, name), name


def test_any_seed_that_a_run_takes_is_a_sweeps_too(trained, tmp_path):
    assert run(tmp_path, "--trials", "2", "--seeds", "1", "--seed", str(2**63 - 1)) == 0
    assert {config.seed for config in trained} == {2**63 - 1}


def test_options_that_a_toml_file_names_are_not_searched(trained, tmp_path, capsys):
    path = tmp_path / "my options.toml"
    path.write_text("gamma = 0.9\nseed = 7\nnum-envs = 8")
    words = ["--trials", "4", "--seeds", "1", "--config", str(path), "--num-envs", "2"]
    assert run(tmp_path, *words) == 0
    assert {(config.gamma, config.seed, config.num_envs) for config in trained} == {(0.9, 7, 2)}
    assert len({config.learning_rate for config in trained}) > 1
    command = capsys.readouterr().out.splitlines()[-2]
    assert shlex.split(command)[:7] == [
        "fastdqn", "train", "cartpole", "--config", str(path), "--num-envs", "2",
    ]  # fmt: skip


def test_a_named_option_of_a_file_may_be_searched(trained, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("gamma = 0.9")
    words = ["--config", str(path), "--search", "gamma=0.5..0.7"]
    assert run(tmp_path, "--trials", "2", "--seeds", "1", *words) == 0
    assert trained[0].gamma == 0.7


def test_a_config_json_is_where_a_search_starts(trained, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(PRESETS["acrobot"].replace(gamma=0.97, seed=7, run_dir="x").to_json())
    out = ["--out", str(tmp_path / "s.journal"), "--trials", "4", "--seeds", "1"]
    assert main(["sweep", "--config", str(path), *out]) == 0
    assert {(each.preset, each.env_id) for each in trained} == {("acrobot", "Acrobot-v1")}
    assert trained[0].gamma == 0.97
    assert {config.seed for config in trained} == {sweep.FIRST_SEED}
    assert len({config.learning_rate for config in trained}) > 1
    command = capsys.readouterr().out.splitlines()[-2]
    assert command.startswith(f"  fastdqn train --config {path} --learning-rate ")


def refused(capsys, *words: str) -> list[str]:
    assert main(["sweep", "cartpole", *words]) == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trials", "0"], "trials is 0: it must be at least 1"),
        (["--seeds", "-1"], "seeds is -1: it must be at least 1"),
        (["--search", "gama"], "unknown option to search 'gama': did you mean gamma?"),
        (
            [word for name in sweep.SPACE for word in ("--" + name.replace("_", "-"), "1")],
            "every option with default values is given: name others with --search",
        ),
        (["--search", "gamma", "--gamma", "0.9"], "gamma cannot be both given and searched"),
        (["--eval-frequency", "0"], "eval_frequency is 0: a sweep compares evaluations"),
        (["--run-dir", "x"], "run_dir is set: runs of a sweep leave no folder"),
        (["--tau", "3"], "tau is 3.0"),
        (["--seed", str(2**63 - 1), "--seeds", "2"], f"seed is {2**63}"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(trained, capsys, words, told):
    assert any(told in line for line in refused(capsys, *words))
    assert trained == []


@pytest.mark.slow
def test_a_sweep_of_other_settings_is_refused_and_kept(trained, tmp_path, capsys):
    out = str(tmp_path / "s.journal")
    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 0
    before = (tmp_path / "s.journal").read_bytes()
    for words in (["--seeds", "2"], ["--seeds", "1", "--num-envs", "8"]):
        (line,) = refused(capsys, "--out", out, *words)
        assert "is a sweep of other" in line
        assert ("num_envs" in line) == ("--num-envs" in words)
    assert (tmp_path / "s.journal").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("content", ["no journal\n", "[1]\n", '{"op_code": 99}\n', "\x00\n"])
def test_a_file_of_something_else_is_refused_and_kept(trained, tmp_path, capsys, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    (line,) = refused(capsys, "--out", str(path))
    assert line.startswith(f"error: {path} is not the file of a sweep")
    assert path.read_text() == content
    assert trained == []


def test_a_folder_is_no_file(trained, tmp_path, capsys):
    (line,) = refused(capsys, "--out", str(tmp_path))
    assert str(tmp_path) in line
    assert trained == []


def test_the_first_setting_is_tried_again_if_its_trial_was_interrupted(trained, tmp_path, capsys):
    whole = sweep.api.train

    def interrupted(config):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.api, "train", interrupted)
        assert run(tmp_path, "--trials", "2", "--seeds", "1") == 130
    assert "interrupted: 0 of 2 trials have finished. The same command" in capsys.readouterr().out
    assert sweep.api.train is whole
    assert run(tmp_path, "--trials", "2", "--seeds", "1") == 0
    assert trained[0].learning_rate == PRESETS["cartpole"].learning_rate
    assert len(trained) == 2
    assert run(tmp_path, "--trials", "3", "--seeds", "1") == 0
    assert trained[2].learning_rate != PRESETS["cartpole"].learning_rate


@pytest.mark.parametrize(
    ("text", "instead", "line"),
    [
        ('"values":[8.0]', '"values":[NaN]', "trial 0 has no finite value"),
        ('"values":[8.0]', '"values":null', "trial 0 has no finite value"),
        ('"directions":[2]', '"directions":[1]', "is not a sweep of fastdqn"),
        ('"param_name":"gamma"', '"param_name":"gamm"', "trial 0 has other options"),
    ],
)
def test_a_damaged_file_is_one_line(trained, tmp_path, capsys, text, instead, line):
    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 0
    path = tmp_path / "s.journal"
    whole = path.read_text()
    assert text in whole
    path.write_text(whole.replace(text, instead))
    assert run(tmp_path, "--trials", "1", "--seeds", "1") == 2
    assert line in capsys.readouterr().err
