"""Fuzz: no command line raises, and whatever is refused is refused in lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from helpers.command_line import ask, no_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("odd_environments", "in_an_empty_folder", "without_the_arcade"),
]

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


# Others on every run: a refusal is parsed once an option, 0.1 s of tyro's work a command line.
@settings(max_examples=60, deadline=None)
@given(subjects, st.lists(options, max_size=3))
def test_no_command_line_raises_and_every_refusal_says_why(subject, groups):
    args = [word for group in groups for word in group]
    with no_training():
        code, _, lines = ask("train", subject, *args)
    assert code in (0, 2)
    assert (code == 2) == bool(lines)
    assert all(line.startswith("error: ") for line in lines)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["eval", "presets", "envs", "train", "nonsense"]), st.lists(words, max_size=3)
)
def test_no_other_command_raises_either(command, args):
    with no_training():
        code, _, lines = ask(command, *args)
    assert code in (0, 2)
    assert (code == 2) == bool(lines)
