"""Presets, and the default options of environment ids."""

import inspect

import pytest

from fastdqn import PRESETS, Config
from fastdqn.cli.main import main
from fastdqn.config.presets import DIFFERENCES, defaults_of
from fastdqn.learning.rmsprop import RMSProp


@pytest.mark.parametrize(
    ("env_id", "beside"),
    [("ALE/Seaquest-v5", "atari-breakout"), ("ale_py:ALE/Pong-v5", "atari-breakout"),
     ("MinAtar/Asterix-v1", "minatar-breakout")],
)  # fmt: skip
def test_a_game_of_pixels_starts_from_the_settings_of_its_kind(env_id, beside):
    config, other = defaults_of(env_id), PRESETS[beside]
    assert config.env_id == env_id
    assert config.atari_protocol == "auto"
    for name in ("learning_rate", "buffer_size", "batch_size", "train_frequency", "n_steps"):
        assert getattr(config, name) == getattr(other, name)


def test_any_other_id_starts_from_the_defaults():
    assert defaults_of("Acrobot-v1") == Config(env_id="Acrobot-v1")


def test_presets_says_where_each_differs_from_the_paper_that_it_names(capsys):
    named = ("atari-dqn", "atari-rainbow", "cartpole-rainbow", "cartpole-cleanrl")
    minatar = [name for name in PRESETS if name.startswith("minatar-")]
    assert set(DIFFERENCES) == {*named, *minatar}
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    for name, text in DIFFERENCES.items():
        block = printed.partition(f"{name}\n")[2].split("\n")
        assert block[1] == f"  differs from {text}"


def test_the_rainbow_of_atari_scales_the_gradient_of_its_streams_and_no_kernel_is_taken_for_it():
    config = PRESETS["atari-rainbow"]
    assert config.dueling_gradient_scale == pytest.approx(0.5**0.5, abs=1e-4)
    small = PRESETS["cartpole"].replace(dueling_gradient_scale=0.5, learner="fused")
    (line,) = small.problems()
    assert "does not support dueling_gradient_scale 0.5" in line
    assert small.replace(dueling=False).problems() == []


def test_epsilon_of_atari_dqn_is_at_its_end_when_the_papers_is():
    """A million frames, 250,000 steps, after the 50,000 with which replay starts."""
    config = PRESETS["atari-dqn"]
    assert config.exploration_fraction * (config.total_timesteps or 0) == 50_000 + 250_000


def test_atari_dqn_has_the_optimizer_of_the_paper_and_rainbow_that_of_its_own():
    """Mnih et al. 2015, extended data table 1, for a mean over 32; Hessel et al. 2018, table 1."""
    optimizer = inspect.signature(RMSProp).parameters
    assert {name: optimizer[name].default for name in ("decay", "epsilon")} == {
        "decay": 0.95, "epsilon": 0.01 / 32**2,
    }  # fmt: skip
    dqn, rainbow = PRESETS["atari-dqn"], PRESETS["atari-rainbow"]
    assert (dqn.optimizer, dqn.learning_rate, dqn.part_kwargs) == ("rmsprop", 2.5e-4, {})
    assert (rainbow.optimizer, rainbow.learning_rate) == ("adam", 6.25e-5)
    assert rainbow.adam_epsilon == 1.5e-4
