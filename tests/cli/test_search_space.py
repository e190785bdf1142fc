"""Ranges and choices of --search: what is parsed, drawn, tried first, printed and rejected."""

import math
import shlex
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastdqn.cli import parser
from fastdqn.cli.main import main
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.search_space import SPACE, Space, option_values, parse_search, plain
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from helpers.sweeps import run

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("word", "space"),
    [
        ("gamma=0.9..0.999", Space("uniform", (0.9, 0.999))),
        ("learning-rate=1e-4..1e-3:log", Space("log", (1e-4, 1e-3))),
        ("gamma=0..1", Space("uniform", (0.0, 1.0))),
        ("munchausen_floor=-2..-0.5", Space("uniform", (-2.0, -0.5))),
        ("batch_size=32..256:log", Space("log", (32, 256))),
        ("train_frequency=1..8", Space("uniform", (1, 8))),
        ("train_frequency=1/2..8", Space("uniform", (0.5, 8.0))),
        ("train_frequency=1/2,2", Space("choices", ("1/2", 2))),
        ("batch_size=32, 64,32", Space("choices", (32, 64))),
        ("gamma=0.99,1", Space("choices", (0.99, 1.0))),
        ("double=true,False", Space("choices", (True, False))),
        ("max_grad_norm=None,1", Space("choices", (None, 1.0))),
        ("hidden_sizes=64 64,128,None", Space("choices", ("64 64", "128", None))),
        ("loss=mse,huber", Space("choices", ("mse", "huber"))),
        ("init_weights=../a,../b", Space("choices", ("../a", "../b"))),
        ("restart_lanes=0,2", Space("choices", (0, 2))),
        ("gamma", None),
    ],
)
def test_a_range_has_two_dots_and_choices_have_commas(word, space):
    spaces, lines = parse_search([word])
    assert lines == []
    assert repr(list(spaces.values())) == repr([space])  # 1 is not 1.0


FORMS = "gamma=LOW..HIGH, gamma=LOW..HIGH:log or gamma=A,B,C"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gama=0..1"], "unknown option to search 'gama': did you mean gamma?"),
        (["tau"], f"tau has no default range: use {FORMS.replace('gamma', 'tau')}"),
        (["double"], "double has no default range: use double=true,false"),
        (["loss"], "loss has no default range: use loss=A,B,C"),
        (["gamma=0.9..0.5"], "gamma=0.9..0.5: the low end must be below the high end"),
        (["gamma=0.9..0.9"], "gamma=0.9..0.9: the low end must be below the high end"),
        (["gamma="], f"gamma=: a choice is empty. Use {FORMS}"),
        (["gamma=0.9,,1"], f"gamma=0.9,,1: a choice is empty. Use {FORMS}"),
        (["gamma=0.9"], f"gamma=0.9 is a single choice: use {FORMS}"),
        (["gamma=x,1"], "gamma is 'x': it must be a number"),
        (["gamma=0.5.."], f"gamma=0.5.. is no range: use {FORMS}"),
        (["gamma=..1"], f"gamma=..1 is no range: use {FORMS}"),
        (["gamma=0.5..0.7,0.9"], f"gamma=0.5..0.7,0.9 is no range: use {FORMS}"),
        (["gamma=0.5,1.5"], "gamma is 1.5: it must be a number, at least 0, at most 1"),
        (["gamma=0.5..1.5"], "gamma is 1.5: it must be a number, at least 0, at most 1"),
        (["gamma=nan..1"], "gamma is nan: it must be a number, at least 0, at most 1"),
        (["gamma=0.5..1:lin"], "gamma=0.5..1:lin: both ends must be numbers"),
        (["gamma=0..1:log"], "gamma=0..1:log: the low end of a log-uniform range must be above 0"),
        (["batch_size=1e2..200"], "batch_size=1e2..200: both ends must be whole numbers"),
        (["exploration_zeta=None..2"], "exploration_zeta=None..2: both ends must be numbers"),
        (["double=0..1"], "double is not a number: use double=true,false"),
        (["hidden_sizes=64..256"], "hidden_sizes is not a number: use hidden_sizes=A,B,C"),
        (["hidden_sizes=64,x"], "hidden_sizes is ('x',): it must be whole numbers or None"),
        (["double=yes,true"], "double is 'yes': it must be true or false"),
        (["gamma", "gamma=0..1"], "gamma is searched twice: name it once"),
        (["seed=1..3"], "seed cannot be searched: every setting is trained with --seeds seeds"),
        (
            ["env_id=A-v0,B-v0"],
            "env_id cannot be searched: returns of different environments cannot be compared",
        ),
        (
            ["eval_episodes=1,2"],
            "eval_episodes cannot be searched: evaluations compare the settings",
        ),
        (["run_dir=a,b"], "run_dir cannot be searched: runs of a sweep leave no folder"),
        (["part_kwargs=a=1,b=2"], "part_kwargs cannot be searched: it has no plain values"),
    ],
)
def test_a_mistake_is_one_line(words, line):
    assert parse_search(words)[1] == [line]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gamma=0.9,1", "--gamma", "1"], "gamma cannot be both given and searched"),
        (["double=true,false", "--no-double"], "double cannot be both given and searched"),
        (["n_steps=1,100", "--learning-starts", "1000"], "--search n_steps=100: learning_starts"),
        (["buffer_size=1000,1000000000000"], "--search buffer_size=1000000000000: "),
        (["loss=mse,nosuch:Loss"], "--search loss=nosuch:Loss: loss 'nosuch:Loss': cannot import"),
    ],
)
def test_values_are_checked_as_those_of_the_command_line(trained, tmp_path, capsys, words, line):
    assert run(tmp_path, "--search", *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}")
    assert trained == []


def test_drawn_values_lie_in_the_ranges_and_among_the_choices(trained, tmp_path):
    words = "gamma=0.99..0.9999 batch_size=10..40:log n_steps=1..3 train_frequency=1/2..8 "
    words += "adam_epsilon=1e-8,1.23456e-5 double=true,false max_grad_norm=None,1"
    assert run(tmp_path, "--trials", "12", "--seeds", "1", "--search", *words.split()) == 0
    assert len(trained) == 12
    assert len({config.gamma for config in trained}) > 6
    for config in trained:
        assert 0.99 <= config.gamma <= 0.9999
        assert len(str(config.gamma)) <= 7
        assert config.batch_size in range(10, 41)
        assert config.n_steps in (1, 2, 3)
        assert 0.5 <= config.train_frequency <= 8
        assert config.adam_epsilon in (1e-8, 1.23456e-5)
    found = {(config.double, config.max_grad_norm) for config in trained}
    assert {each for each, _ in found} == {True, False}
    assert {each for _, each in found} == {None, 1.0}


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("learning_rate=1e-4..1e-2", 8e-3),  # the preset's own
        ("learning_rate=1e-4..1e-3:log", 1e-3),
        ("learning_rate=0.01,0.02", 0.01),
        ("learning_rate=0.1,0.008", 8e-3),
        ("train_frequency=1..8", 8),
        ("n_steps=2..5", 2),
        ("exploration_zeta=1.5..3", 1.5),  # None
        ("exploration_zeta=2,None", None),
        ("exploration_final_eps=0.01..0.1", 0.05),  # None, which is 0.05
        ("exploration_final_eps=0.01,None", None),
        ("hidden_sizes=32,64 64", (64, 64)),
    ],
)
def test_the_first_trial_is_in_the_space_and_as_near_as_can_be(trained, tmp_path, word, first):
    assert run(tmp_path, "--trials", "1", "--seeds", "1", "--search", word) == 0
    assert getattr(trained[0], word.partition("=")[0]) == first


def test_a_setting_of_the_preset_outside_the_space_need_not_fit_the_other_options(
    trained, tmp_path
):
    words = ["--value", "categorical", "--v-max", "-20", "--search", "v_min=-50..-30"]
    assert run(tmp_path, "--trials", "1", "--seeds", "1", *words) == 0
    assert trained[0].v_min == -30


def test_a_range_is_not_extended_by_the_setting_of_the_preset(trained, tmp_path):
    words = ["--search", "learning_rate=1e-4..1e-3", "batch_size=16,32"]
    assert run(tmp_path, "--trials", "8", "--seeds", "1", *words) == 0
    assert all(config.learning_rate <= 1e-3 and config.batch_size < 64 for config in trained)


def test_searched_values_that_exclude_each_other_are_failed_trials(trained, tmp_path, capsys):
    words = ["--search", "value=categorical,scalar", "munchausen=true,false"]
    assert run(tmp_path, "--trials", "12", "--seeds", "1", *words) == 0
    out = capsys.readouterr().out
    failed = out.count("no result (munchausen adds")
    assert failed > 0
    assert len(trained) == 12 - failed


def test_the_result_is_a_command_with_the_values_of_the_best_trial(trained, tmp_path, capsys):
    words = ["learning_rate=8e-3..1e-1", "gamma=0.99,0.99975", "double=true,false"]
    words += ["hidden_sizes=32,64 64", "max_grad_norm=None,1", "train_frequency=1/3,2"]
    assert run(tmp_path, "--trials", "6", "--seeds", "1", "--quiet", "--search", *words) == 0
    line = capsys.readouterr().out.splitlines()[1]
    chosen, mistakes = parser.parse(shlex.split(line)[3:], TrainOptions(PRESETS["cartpole"]), "")
    assert mistakes == []
    best = max(trained, key=lambda config: config.learning_rate)
    for name in ("learning_rate", "gamma", "double", "hidden_sizes", "max_grad_norm"):
        assert getattr(chosen.config, name) == getattr(best, name), name
    assert chosen.config.train_frequency == best.train_frequency


def test_another_space_is_another_sweep(trained, tmp_path, capsys):
    words = ["--trials", "1", "--seeds", "1", "--search"]
    assert run(tmp_path, *words, "gamma=0.9..0.99") == 0
    for other in ("gamma=0.9..0.98", "gamma=0.9..0.99:log", "gamma=0.9,0.99", "gamma"):
        assert run(tmp_path, *words, other) == 2
        assert "is a sweep of other searched" in capsys.readouterr().err
    assert run(tmp_path, *words, "gamma=0.90..0.99") == 0


def test_default_spaces_are_stored_as_before_and_two_floats_are_not_a_range():
    stored = {name: space.to_json() for name, space in SPACE.items()}
    assert stored["learning_rate"] == [1e-4, 1e-2]
    assert stored["n_steps"] == [1, 3, 5]
    assert all(isinstance(each, list) for each in stored.values())
    assert Space("choices", (0.9, 0.99)).to_json() == {"choices": [0.9, 0.99]}
    assert Space("log", (32, 64)).to_json() == {"log": [32, 64]}


def test_a_narrow_range_keeps_more_digits():
    assert Space("log", (1e-4, 1e-2)).rounded(1.23456e-3) == 1.23e-3
    assert Space("uniform", (0.99, 0.9999)).rounded(0.9943217) == 0.99432


@example(1655.0, 1839.0, 0.0)
@example(0.99, 0.9999, 0.05)
@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.floats(0, 1))
def test_a_rounded_value_stays_in_its_range_and_close(one, other, share):
    low, high = sorted((one, other))
    if low < high:
        value = min(max(low, low + share * (high - low)), high)
        rounded = Space("uniform", (low, high)).rounded(value)
        assert low <= rounded <= high
        assert math.isclose(rounded, value, rel_tol=0, abs_tol=(high - low) / 60)


def test_a_fraction_is_stored_as_text_and_read_back():
    for value, stored in ((Fraction(1, 3), "1/3"), (Fraction(4), 4)):
        assert plain(value) == stored
        assert Config(**option_values({"train_frequency": stored})).train_frequency == value


def test_the_help_names_the_forms(capsys):
    assert main(["sweep", "--help"]) == 0
    assert "NAME=LOW..HIGH:log" in capsys.readouterr().out


def test_a_searched_option_may_replace_one_that_a_run_without_it_lacks(trained, tmp_path):
    """Without a number of steps, epsilon needs a decay per episode, which is searched here."""
    words = ["--total-timesteps", "None", "--total-episodes", "40", "--trials", "2"]
    assert run(tmp_path, *words, "--search", "exploration_decay=0.9..0.99") == 0
    assert all(config.exploration_decay >= 0.9 for config in trained)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--tensorboard", "false"], False),
        (["--tensorboard=FALSE"], False),
        (["--no-tensorboard"], False),
        (["--tensorboard"], True),
        (["--tensorboard", "none"], None),
    ],
)
def test_a_switch_that_may_be_none_is_given_as_any_switch(words, value):
    for place in ([*words, "--tau", "0.5"], ["--tau", "0.5", *words]):
        chosen, mistakes = parser.parse(place, TrainOptions(Config()), "")
        assert mistakes == []
        assert chosen.config.tensorboard is value
        assert chosen.config.tau == 0.5


def test_none_may_have_any_case():
    words = ["--threads", "none", "--total_timesteps=NONE", "--final_evaluation", "false"]
    chosen, mistakes = parser.parse(words, TrainOptions(Config(threads=2)), "")
    assert mistakes == []
    assert (chosen.config.threads, chosen.config.total_timesteps) == (None, None)
    assert chosen.config.final_evaluation is False
