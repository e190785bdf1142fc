"""Every option has all that derives from its field; an option without one of them is found."""

import importlib
import math
import re
import types
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest

from fastdqn.builders import agent
from fastdqn.builders.auto_options import resolve
from fastdqn.checkpoints.network_weights import require_readable
from fastdqn.cli.help import grouped
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.tabular import TabularOptions
from fastdqn.config import limits
from fastdqn.config.option import (
    GROUPS,
    Fused,
    Group,
    Limit,
    Option,
    Part,
    Stored,
    options_of,
    texts,
)
from fastdqn.config.registry import WORDS
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvFacts
from fastdqn.tabular.config import TableConfig
from helpers.command_line import ask

FACTS = EnvFacts((3,), np.dtype(np.float32), 1.0, 2, 0)
RECORDS = (Config, TableConfig)
EVERY = [(record, name) for record in RECORDS for name in options_of(record)]
NUMBERS = (int, float, Fraction)


def numbers_in(hint: Any) -> bool:
    """Whether a type holds numbers, within a tuple or beside None."""
    return hint in NUMBERS or any(map(numbers_in, get_args(hint)))


def faults(name: str, option: Option, text: str) -> list[str]:
    """What an option lacks."""
    found = []
    if option.group not in GROUPS:
        found.append("group")
    if not text.endswith(".") or len(text) < 10:
        found.append("help text")
    if numbers_in(option.hint) and option.limit is None:
        found.append("limit")
    if not limits.fits(option.default, option):
        found.append("default of its type")
    elif limits.beyond(name, option.default, option.limit) is not None:
        found.append("default within its limit")
    return found


@pytest.mark.parametrize(("record", "name"), EVERY, ids=[f"{r.__name__}-{n}" for r, n in EVERY])
def test_an_option_has_a_group_a_help_text_and_a_limit(record, name):
    assert faults(name, options_of(record)[name], texts(record).get(name, "")) == []


@dataclass(frozen=True)
class Incomplete:
    group: Annotated[int, Limit(0)] = 1
    """A number without a group."""
    misspelled: Annotated[int, Limit(0), Group("learnign")] = 1
    """A number of a group that does not exist."""
    text: Annotated[int, Limit(0), Group("learning")] = 1
    limit: Annotated[tuple[float, ...] | None, Group("learning")] = None
    """A number without a limit."""
    wrong: Annotated[int, Limit(0), Group("learning")] = "1"  # pyright: ignore
    """A default that is not of its type."""
    beyond: Annotated[int, Limit(0), Group("learning")] = -1
    """A default beyond its limit."""


def test_an_incomplete_option_is_found():
    options, said = options_of(Incomplete), texts(Incomplete)
    found = {name: faults(name, option, said.get(name, "")) for name, option in options.items()}
    assert found == {
        "wrong": ["default of its type"], "group": ["group"], "misspelled": ["group"],
        "text": ["help text"], "limit": ["limit"],
        "beyond": ["default within its limit"],
    }  # fmt: skip


# -- the command line


@pytest.mark.parametrize("default", [TrainOptions(Config()), TabularOptions(TableConfig())])
def test_help_lists_every_option_below_its_group(default):
    record = type(default.config)
    shown = grouped(default)
    listed = {
        name: title
        for title, group in vars(shown).items()
        if title in GROUPS
        for name in vars(group)
    }
    assert listed == {name: option.group for name, option in options_of(record).items()}


def test_completion_knows_every_option_and_every_word():
    script = ask("completion", "bash")[1]
    for command, record in (("train", Config), ("tabular", TableConfig)):
        for name, option in options_of(record).items():
            flag = name.replace("_", "-")
            assert f" --{flag} " in script, name
            offered = rf"_{command}___{name}_choices=\((.*)\)"
            for word in option.part.words if option.part else _words(option.hint):
                found = re.search(offered, script)
                assert found is not None, name
                assert word in re.findall(r"[\w-]+", found[1]), name


def _words(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for inner in get_args(hint) for word in _words(inner))


@pytest.mark.parametrize("name", [n for n, o in options_of(Config).items() if o.limit])
def test_a_number_beyond_its_limit_is_rejected_by_name(name):
    option = options_of(Config)[name]
    assert option.limit is not None
    low, high = option.limit.low, option.limit.high
    for number in (low - max(1, abs(low)), high + max(1, abs(high)), math.nan, math.inf):
        value = (number,) if get_origin(option.hint) is tuple else number
        line = limits.beyond(name, value, option.limit)
        assert str(line).startswith(f"{name} is ")


@pytest.mark.parametrize("name", [n for n, o in options_of(Config).items() if o.part])
def test_a_word_that_is_not_registered_is_rejected_and_a_path_is_not(name):
    option = options_of(Config)[name]
    assert option.part is not None
    assert option.part == Part(name)  # the option and its words go by one name
    for bad in ("nope", "os", ":", "a:", ":b", "a b:c", "a:b c", 3, None):
        assert not limits.fits(bad, option), bad
    for good in (*option.part.words, "my_parts:Mine", "a.b:C.d", "custom"):
        assert limits.fits(good, option), good


def test_every_option_that_names_a_part_has_words_and_every_list_of_words_an_option():
    assert {n for n, o in options_of(Config).items() if o.part} == WORDS.keys()


@pytest.mark.parametrize(
    "path", [path for words in WORDS.values() for path in words.values() if path]
)
def test_a_word_names_a_class_or_function_of_a_room_that_knows_no_options(path):
    module, _, name = path.partition(":")
    assert module.split(".")[1] in ("learning", "replay", "schedules")
    assert callable(getattr(importlib.import_module(module), name))


# -- the description of a network, which travels with its weights


def description(**options: Any) -> dict[str, Any]:
    config = resolve(Config().replace(**options), FACTS, "sync").config
    return agent.describe_network(config, FACTS)


@pytest.mark.parametrize("value", WORDS["value"])
def test_a_description_is_read_back_as_it_was_written(value):
    described = description(value=value, noisy=True, hidden_activation="tanh")
    require_readable(described)
    stored = {name for name, option in options_of(Config).items() if option.stored}
    assert stored <= described.keys()


def test_a_network_is_made_of_what_its_description_holds():
    """Removing any stored option is seen at the start of a run, not when weights are loaded."""
    described = description(value="categorical", noisy=True)
    needed = {name for name, option in options_of(Config).items() if option.stored}
    # make_part() reads these with their former values, for files that lack them.
    for name in needed - {"value", "part_kwargs", "normalize_reward"}:
        with pytest.raises((AttributeError, KeyError)):
            agent.make_network({key: each for key, each in described.items() if key != name})


@pytest.mark.parametrize(
    "name", [*(n for n, o in options_of(Config).items() if o.stored), "num_atoms", "v_min"]
)
def test_a_stored_option_that_is_not_valid_is_rejected_before_the_run(name):
    bad = {name: 3 if name == "part_kwargs" else {"no": ["valid", "value"]}}
    with pytest.raises(ConfigError, match=f"could not be read back: .*{name} of its network"):
        require_readable(description(value="categorical") | bad)


def test_an_option_of_a_newer_version_is_rejected_before_the_run():
    with pytest.raises(ConfigError, match="newer of its network is 1"):
        require_readable(description() | {"newer": 1})


# -- the fused learner


@pytest.mark.parametrize("name", [n for n, o in options_of(Config).items() if o.fused is not None])
def test_a_value_that_the_fused_learner_does_not_support_is_named(name):
    option = options_of(Config)[name]
    assert option.fused is not None
    assert option.default in option.fused
    other = {
        bool: not option.default, float: 0.5, str: "my_parts:Mine" if option.part else "cuda",
    }  # fmt: skip
    words = [word for word in _words(option.hint) if word not in option.fused]
    value = words[0] if words else other[option.hint]
    assert any(each.startswith(name) for each in Config().replace(**{name: value}).beyond_fused())


# -- marks


def test_files_without_an_option_mean_what_was_done_before_it_existed():
    """A mark that is lost would resume an old run with other options than it had."""
    changed = {
        name: option.before
        for name, option in options_of(Config).items()
        if option.before != option.default
    }
    assert changed == {
        "store": "rows", "torso": "mlp", "atari_protocol": "none", "precision": "float32",
        "updates_per_launch": 1, "priority_lag": 0, "final_evaluation": True,
    }  # fmt: skip


def test_the_fused_learner_is_not_chosen_for_what_it_does_not_compute():
    """Without these marks it would be, and the run would end in the warm-up."""
    marked = {name for name, option in options_of(Config).items() if option.fused is not None}
    assert marked >= {
        "optimizer", "loss", "backup", "value", "torso", "hidden_activation", "device", "capture",
        "precision", "dueling_gradient_scale",
    }  # fmt: skip


def test_a_mark_is_read_and_an_override_keeps_what_it_does_not_replace():
    @dataclass(frozen=True)
    class Base:
        size: Annotated[int, Limit(1, 9), Group("run"), Stored(), Fused(3)] = 3

    @dataclass(frozen=True)
    class Derived(Base):
        size: Annotated[int, Limit(1, 5)] = 4
        extra: Annotated[dict, Group("run")] = field(default_factory=dict)

    option = options_of(Derived)["size"]
    assert (option.limit, option.group, option.stored) == (Limit(1, 5), "run", True)
    assert (option.fused, option.default, option.before) == ((3,), 4, 4)
    assert list(options_of(Derived)) == ["size", "extra"]


def test_limits_print_as_intervals():
    said = types.MappingProxyType({
        Limit(0, 1): "a number, at least 0, at most 1", Limit(0, open=True): "a number, above 0",
        Limit(-math.inf): "a finite number",
    })  # fmt: skip
    assert {limit.text for limit in said} == set(said.values())
