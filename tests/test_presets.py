"""Presets: what a bare environment id starts from."""

import pytest

from fastdqn import PRESETS, Config
from fastdqn.presets import defaults_of


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
