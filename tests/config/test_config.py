"""Config: validation, and the round trip through JSON."""

import dataclasses
import json
import math
from fractions import Fraction

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.cli.options import TrainOptions
from fastdqn.cli.parser import parse
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config, ConfigError, as_fraction

FIELDS = [field.name for field in dataclasses.fields(Config)]
WHOLE = (
    "num_envs", "seed", "buffer_size", "learning_starts", "batch_size", "target_network_frequency",
    "n_steps", "eval_frequency", "eval_episodes", "num_quantiles", "num_fractions",
    "num_target_fractions", "num_policy_fractions",
)  # fmt: skip
WHOLE_OR_NONE = (
    "total_timesteps", "total_episodes", "eval_max_steps", "threads", "log_frequency",
)  # fmt: skip
NUMBERS = (
    "learning_rate", "tau", "gamma", "exploration_fraction", "v_min", "v_max", "noisy_sigma",
    "priority_exponent", "importance_exponent", "munchausen_alpha", "munchausen_temperature",
    "munchausen_floor",
)  # fmt: skip
NUMBERS_OR_NONE = (
    "max_grad_norm", "exploration_decay", "stop_at_return", "exploration_initial_eps",
    "exploration_final_eps",
)  # fmt: skip
ZERO_IS_FINE = {"seed", "learning_starts", "eval_frequency"}


def lines_about(name: str, value) -> list[str]:
    return [line for line in Config(**{name: value}).problems() if line.startswith(f"{name} is ")]


def test_the_defaults_are_free_of_problems():
    assert Config().problems() == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_free_of_problems_and_labels_itself(name):
    assert PRESETS[name].problems() == []
    assert PRESETS[name].preset == name


@pytest.mark.parametrize("name", [*WHOLE, *WHOLE_OR_NONE])
@pytest.mark.parametrize("value", [-1, 1 << 70, 10**400, 0.5, True, "7", math.nan])
def test_a_count_refuses_what_is_not_a_whole_number_in_range(name, value):
    assert len(lines_about(name, value)) == 1


@pytest.mark.parametrize("name", [*WHOLE, *WHOLE_OR_NONE])
def test_a_count_refuses_zero_unless_it_can_mean_none(name):
    assert len(lines_about(name, 0)) == (name not in ZERO_IS_FINE)


@pytest.mark.parametrize("name", [*NUMBERS, *NUMBERS_OR_NONE, "train_frequency"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "much", [1.0]])
def test_a_number_refuses_what_is_not_finite_or_no_number(name, value):
    assert len(lines_about(name, value)) == 1


@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS, "train_frequency", "env_id", "double", "loss"])
def test_none_is_refused_where_it_means_nothing(name):
    assert len(lines_about(name, None)) == 1


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("learning_rate", (1e-9, 10), (0, -1e-9)),
        ("tau", (1e-9, 1), (0, 1.0001)),
        ("gamma", (0, 1), (-0.1, 1.0001)),
        ("munchausen_temperature", (1e-6, 0.03, 1e6), (0, 1e-7, 1e30)),
        ("exploration_initial_eps", (0.05, 1), (-0.1, 1.0001)),
        ("exploration_final_eps", (0, 1), (-0.1, 1.0001)),
        ("exploration_fraction", (0, 1), (-0.1, 1.0001)),
        ("exploration_decay", (1e-9, 1), (0, 1.0001)),
        ("max_grad_norm", (1e-9, 1e9), (0, -1)),
        ("train_frequency", (Fraction(1, 3), "1/3", 4, 0.5), (0, -1, "1e-9", "1e400", "1/0", "a")),
        ("stop_at_return", (-1e9, 0, 475), ()),
        ("torso", ("auto", "mlp", "nature", "data-efficient", "minatar"), ("cnn", None)),
        (
            "hidden_sizes",
            (None, (), (1,), [64, 64]),
            ((0,), (64, -1), (1 << 30,), (64, True), (0.5,), 3),
        ),
        ("loss", ("mse", "huber"), ("l1", 3, ["mse"])),
        ("vectorization", ("auto", "native", "sync", "async"), ("threads", None)),
        ("double", (True, False), (0, 1, "yes", None)),
        ("tensorboard", (True, False, None), (0, "yes")),
        ("wandb", (True, False), (None, 1, "yes")),
        ("run_dir", ("runs/x", None), (3, b"runs")),
    ],
)
def test_an_option_takes_what_is_within_its_limits_and_nothing_else(name, good, bad):
    assert [value for value in good if lines_about(name, value)] == []
    assert [value for value in bad if not lines_about(name, value)] == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"total_timesteps": None, "exploration_decay": 0.9}, "would never end"),
        ({"total_timesteps": None, "total_episodes": 9}, "exploration_decay"),
        ({"batch_size": 65, "buffer_size": 64}, "batch_size is 65, buffer_size only 64"),
        ({"num_envs": 64, "buffer_size": 127, "batch_size": 1}, "at least 128"),
        ({"learning_starts": 100, "total_timesteps": 100}, "nothing would be learned"),
        ({"n_steps": 100, "num_envs": 16, "learning_starts": 1583}, "1584 steps"),
        ({"exploration_initial_eps": 0.1, "exploration_final_eps": 0.2}, "can only decay"),
        ({"stop_at_return": 1.0, "eval_frequency": 0}, "eval_frequency is 0"),
    ],
)
def test_options_that_contradict_each_other_are_named_together(changes, says):
    (line,) = Config().replace(**changes).problems()
    assert says in line


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 64, "buffer_size": 64},
        {"num_envs": 64, "buffer_size": 128, "batch_size": 1},
        {"learning_starts": 99, "total_timesteps": 100},
        {"n_steps": 100, "num_envs": 16, "learning_starts": 1584},
        {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2},
        {"total_timesteps": None, "total_episodes": 9, "exploration_decay": 0.9},
    ],
)
def test_options_right_at_the_edge_are_accepted(changes):
    assert Config().replace(**changes).problems() == []


PIECEWISE = {
    "learning_rate_schedule": "piecewise",
    "learning_rate_steps": (10, 20),
    "learning_rate_values": (1e-3, 1e-4),
}


@pytest.mark.parametrize(("changes", "line"), [
    (PIECEWISE | {"learning_rate_schedule": "cosine"},
     "learning_rate_steps and learning_rate_values are for a piecewise schedule, and "),
    (PIECEWISE | {"learning_rate_steps": (), "learning_rate_values": ()},
     "learning_rate_schedule is piecewise, and learning_rate_steps is empty: give its points"),
    (PIECEWISE | {"learning_rate_values": (1e-3,)},
     "learning_rate_steps has 2 points and learning_rate_values 1: give as many of both"),
    (PIECEWISE | {"learning_rate_steps": (20, 20)},
     "learning_rate_steps is 20 20: the steps must ascend"),
    (PIECEWISE | {"final_learning_rate": 1e-5},
     "final_learning_rate is 1e-05, which is for a linear or cosine schedule, and "
     "learning_rate_schedule is piecewise: use --learning-rate-schedule linear"),
    ({"final_learning_rate": 1e-5}, "final_learning_rate is 1e-05, which is for a linear"),
    ({"learning_rate_schedule": "linear", "total_timesteps": None, "total_episodes": 9,
      "exploration_decay": 0.9},
     "learning_rate_schedule is linear, which ends at total_timesteps, and that is None"),
    ({"value": "hl-gauss", "v_min": 1.0, "v_max": 1.0}, "v_min is 1.0, v_max 1.0: the 51 atoms"),
    ({"value": "hl-gauss", "loss": "huber"}, "loss is huber, which is for scalar values, and "),
    ({"value": "quantile", "loss": "my_parts:loss"}, "loss is my_parts:loss, which is for scalar"),
    ({"backup": "max"}, "backup is max, and double, munchausen and target_network choose double"),
    ({"backup": "my_parts:Backup", "munchausen": True},
     "backup is my_parts:Backup, which takes the place of munchausen: leave one of them out"),
    ({"sampler": "recent", "prioritized": True},
     "sampler is recent, and --prioritized chooses prioritized: leave one of them out"),
    ({"sampler": "recent", "replay": False},
     "sampler is recent, and --no-replay chooses newest: leave one of them out"),
    ({"sampler": "prioritized"}, "sampler is prioritized, and it needs --prioritized"),
    ({"sampler": "newest"}, "sampler is newest, and it needs --no-replay"),
])  # fmt: skip
def test_parts_that_contradict_other_options_are_one_line(changes, line):
    found = Config(**changes).problems()
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize("changes", [
    PIECEWISE,
    {"learning_rate_schedule": "my_parts:Schedule", "final_learning_rate": 1e-5},
    {"value": "my_parts:Value", "loss": "huber"},
    {"backup": "my_parts:Backup"},
    {"backup": "double", "double": True},
    {"sampler": "my_parts:Sampler"},
    {"sampler": "prioritized", "prioritized": True},
])  # fmt: skip
def test_parts_that_go_with_other_options_are_accepted(changes):
    assert Config(**changes).problems() == []


def test_all_mistakes_of_a_kind_are_collected_one_line_each():
    wrong_types = Config(seed="x", gamma="y", double=1, run_dir=2)  # pyright: ignore
    assert [line.split()[0] for line in wrong_types.problems()] == [
        "seed", "gamma", "run_dir", "double",
    ]  # fmt: skip
    beyond = Config(seed=-1, gamma=2.0, n_steps=0, tau=math.nan, train_frequency=Fraction(0))
    assert sorted(line.split()[0] for line in beyond.problems()) == [
        "gamma", "n_steps", "seed", "tau", "train_frequency",
    ]  # fmt: skip
    contradictions = Config(batch_size=999, buffer_size=20, learning_starts=10**6)
    assert len(contradictions.problems()) == 3


def test_a_line_names_option_value_and_limit():
    assert Config(gamma=1.5).problems() == [
        "gamma is 1.5: it must be a number, at least 0, at most 1"
    ]
    assert Config(num_envs=0).problems() == [
        "num_envs is 0: it must be a number, at least 1, at most 1,048,576"
    ]
    assert Config(stop_at_return=math.nan).problems() == [
        "stop_at_return is nan: it must be a finite number"
    ]
    assert Config(store="disk").problems() == [  # pyright: ignore
        "store is 'disk': it must be one of auto, rows, frames, device"
    ]
    assert Config(loss="l1").problems() == [
        "loss is 'l1': it must be one of mse, huber, or a name such as my_module:MyPart"
    ]


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(ConfigError) as caught:
        Config().replace(gama=0.9, n_step=3, zzzzz=1)
    assert caught.value.lines == [
        "unknown option 'gama': did you mean gamma?",
        "unknown option 'n_step': did you mean n_steps?",
        "unknown option 'zzzzz'",
    ]


@pytest.mark.parametrize("config", [Config(), *PRESETS.values()], ids=lambda c: c.preset)
def test_json_gives_back_the_same_config(config):
    assert Config.from_json(config.to_json()) == config


def test_options_that_a_run_was_made_before_are_what_was_done_then():
    values = json.loads(Config(env_id="Acrobot-v1", hidden_sizes=(120, 84)).to_json())
    for later in ("store", "torso", "atari_protocol", "adam_epsilon"):
        del values[later]
    config = Config.from_json(json.dumps(values))
    assert (config.store, config.torso, config.atari_protocol) == ("rows", "mlp", "none")
    assert config.adam_epsilon == 1e-8


@pytest.mark.slow
@given(st.fractions(min_value=Fraction(1, 1000), max_value=1000).filter(bool))
def test_json_keeps_fractions_exact(per):
    again = Config.from_json(Config(train_frequency=per).to_json())
    assert again.train_frequency == per
    assert isinstance(again.train_frequency, Fraction)


def test_json_writes_a_whole_train_frequency_as_a_number_and_any_other_as_a_text():
    assert json.loads(Config(train_frequency=Fraction(4)).to_json())["train_frequency"] == 4
    assert json.loads(Config(train_frequency=Fraction(1, 3)).to_json())["train_frequency"] == "1/3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ('{"seed": 1', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ('{"gama": 0.9}', "did you mean gamma"),
        ('{"seed": true}', "seed is True"),
        ('{"seed": 1.5}', "seed is 1.5"),
        ('{"gamma": NaN}', "gamma is nan"),
        ('{"total_timesteps": 1e400}', "total_timesteps is inf"),
        ('{"wrapper": null}', "wrapper is None"),
        ('{"batch_size": 9, "buffer_size": 8, "num_envs": 1}', "must fit into the replay"),
    ],
)
def test_reading_what_to_json_did_not_write_is_a_config_error(text, says):
    with pytest.raises(ConfigError, match=says):
        Config.from_json(text)


@pytest.mark.parametrize(
    ("value", "fraction"),
    [(4, 4), (0.5, Fraction(1, 2)), ("1/3", Fraction(1, 3)), (0.1, Fraction(1, 10)), ("2.5e1", 25)],
)
def test_numbers_and_texts_become_exact_fractions(value, fraction):
    assert as_fraction(value) == fraction


def test_an_exponent_that_would_fill_the_memory_is_not_written_out():
    for text in ("1e999999999", "1E-999999999", "1e+9_999_999"):
        assert as_fraction(text) == text


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.fractions(),
    st.binary(max_size=3), st.lists(st.integers(), max_size=3), st.just(10**400), st.just(object),
    st.tuples(st.integers(), st.floats()), st.dictionaries(st.integers(), st.none(), max_size=1),
    st.sampled_from(["1e999999999", "1/0", "nan", "-inf", "١/٢"]),
)  # fmt: skip


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=6))
def test_problems_never_raises_whatever_the_values(values):
    lines = Config(**values).problems()
    assert all(isinstance(line, str) and "\n" not in line for line in lines)


@pytest.mark.parametrize("name", ["final_learning_rate", "num_envs", "adam_epsilon"])
@pytest.mark.parametrize("digits", [400, 5_000])  # no float holds these, and Python prints no 5,000
def test_a_huge_number_is_beyond_its_limit_in_one_line(name, digits):
    (line,) = Config(**{name: 10**digits}).problems()
    assert line.startswith(f"{name} is ")


@given(st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=6))
def test_a_config_without_problems_survives_json(values):
    config = Config(**values)
    if not config.problems():
        assert Config.from_json(config.to_json()) == config


def test_an_old_name_of_an_option_is_accepted_with_a_warning():
    with pytest.warns(FutureWarning, match="^restart_lanes is now called restart_envs$"):
        assert Config().replace(restart_lanes=3).restart_envs == 3
    text = Config(restart_envs=2, vectorization="async").to_json()
    assert Config.from_json(text.replace("restart_envs", "restart_lanes")).restart_envs == 2


def test_an_old_name_of_a_flag_is_accepted_with_a_warning(capsys):
    for words in (["--restart-lanes", "3"], ["--restart-lanes=3"], ["--restart_lanes=3"]):
        chosen, mistakes = parse(words, TrainOptions(Config()), "fastdqn train x")
        assert (chosen.config.restart_envs, mistakes) == (3, [])
        assert "is now called --restart-envs\n" in capsys.readouterr().err


def test_an_option_by_its_old_and_its_new_name_is_an_error():
    with pytest.raises(ConfigError, match=r"^restart_lanes is now called restart_envs: leave"):
        Config().replace(restart_lanes=3, restart_envs=5)


def test_only_the_options_that_are_named_are_given_to_tyro(monkeypatch):
    """All of them would take 0.1 s at each call."""
    inspected, whole = [], tyro.cli

    def cli(form, *, default, **options):
        inspected.append(vars(default))
        return whole(form, default=default, **options)

    monkeypatch.setattr(tyro, "cli", cli)
    words = ["--no-double", "--n_steps=3", "--resume", "auto"]
    chosen, lines = parse(words, TrainOptions(Config(gamma=0.5)), "fastdqn train x")
    assert inspected == [{"double": True, "n_steps": 1, "resume": "never"}]
    assert lines == []
    assert chosen == TrainOptions(Config(gamma=0.5, double=False, n_steps=3), resume="auto")
