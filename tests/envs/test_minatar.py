"""MinAtar: registration on demand, the presets, and a complete run."""

import logging
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import fastdqn
from fastdqn.builders.preflight import check
from fastdqn.config.presets import PRESETS
from fastdqn.envs import EnvRecipe, find_supported_envs, probe_env, registry
from helpers.loop import run_loop, small

GAMES = {
    "asterix": ("Asterix", 4), "breakout": ("Breakout", 4), "freeway": ("Freeway", 7),
    "seaquest": ("Seaquest", 10), "space-invaders": ("SpaceInvaders", 6),
}  # fmt: skip


def test_an_id_without_the_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    monkeypatch.setattr(gymnasium, "registry", {})
    with pytest.raises(ValueError, match=r"pip install 'fastdqn\[minatar\]'") as caught:
        registry.find_spec("MinAtar/Breakout-v1")
    assert "\n" not in str(caught.value)
    assert len(check(fastdqn.Config(env_id="MinAtar/Breakout-v1"))) == 1


@pytest.mark.slow
def test_minatar_is_imported_only_for_its_ids():
    code = (
        "import sys; from fastdqn.envs import find_spec; find_spec('CartPole-v1');"
        "print('minatar' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_a_preset_is_of_the_published_game_and_settings(name):
    pytest.importorskip("minatar")
    config = PRESETS[f"minatar-{name}"]
    game, channels = GAMES[name]
    assert config.env_id == f"MinAtar/{game}-v0"
    assert config.problems() == []
    facts = probe_env(EnvRecipe(config.env_id))
    assert (facts.obs_shape, facts.obs_dtype, facts.obs_scale) == (
        (10, 10, channels), np.dtype(np.bool_), 1.0,
    )  # fmt: skip
    assert (facts.num_actions, facts.max_episode_steps) == (6, None)
    lane = EnvRecipe(config.env_id).make_one()
    assert lane.unwrapped.game.sticky_action_prob == 0.1  # pyright: ignore
    falls = config.exploration_fraction * (config.total_timesteps or 0)
    assert (config.buffer_size, config.batch_size, falls) == (100_000, 32, 100_000)


@pytest.mark.slow
def test_it_registers_once_quietly_and_finds_near_names():
    pytest.importorskip("minatar")
    handlers = list(logging.root.handlers)
    for _ in range(2):  # twice would warn, and warnings are errors here
        assert registry.find_spec("MinAtar/Breakout-v1").id == "MinAtar/Breakout-v1"
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == 0
    with pytest.raises(ValueError, match="did you mean MinAtar/Breakout-v"):
        registry.find_spec("MinAtar/Brakout-v1")
    entries = {entry.env_id: entry for entry in find_supported_envs("minatar/aster*")}
    assert sorted(entries) == ["MinAtar/Asterix-v0", "MinAtar/Asterix-v1"]
    assert entries["MinAtar/Asterix-v1"].vectorization == "sync"
    assert not entries["MinAtar/Asterix-v1"].problem


@pytest.mark.slow
def test_a_run_trains_its_convolutions_and_the_policy_is_loaded(tmp_path):
    pytest.importorskip("minatar")
    config = small(
        tmp_path, env_id="MinAtar/Breakout-v1", hidden_sizes=None, total_timesteps=200,
        eval_max_steps=20,
    )  # fmt: skip
    session, _ = run_loop(config)
    resolved = session.config
    assert (resolved.torso, resolved.hidden_sizes, resolved.learner) == (
        "minatar", (128,), "fused",
    )  # fmt: skip
    assert session.run.staging.host.obs.dtype == np.bool_
    session.run.learner.online.check_views()
    assert session.run.learner.updates == 38
