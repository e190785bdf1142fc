"""Atari protocols: their settings, and their effect on a run."""

import json
import sys

import gymnasium
import numpy as np
import pytest

import fastdqn
from fastdqn import Config, ConfigError
from fastdqn.builders import build
from fastdqn.config import atari_protocols
from fastdqn.envs import EnvRecipe, Step, find_spec, probe_env
from fastdqn.logging.console import Silent
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler
from helpers.loop import small
from helpers.resumed_runs import asked_by_the_test, stopping_at  # noqa: F401  # by its name alone
from helpers.setups import setup_of

ale_py = pytest.importorskip("ale_py")
TABLE = {  # dqn2015, machado2018
    "frameskip": (4, 4),
    "maxpool": (True, True),
    "stack_num": (4, 4),
    "grayscale": (True, True),
    "img_height": (84, 84),
    "img_width": (84, 84),
    "max_num_frames_per_episode": (108_000, 108_000),
    "use_fire_reset": (False, False),
    "reward_clipping": (True, True),
    "noop_max": (30, 0),
    "repeat_action_probability": (0.0, 0.25),
    "life_loss_info": (True, False),
    "full_action_space": (False, True),
}


@pytest.mark.parametrize(("column", "protocol"), [(0, "dqn2015"), (1, "machado2018")])
def test_a_protocol_names_every_setting(column, protocol):
    assert atari_protocols.settings(protocol, {}) == {
        name: row[column] for name, row in TABLE.items()
    }


def test_auto_is_what_v5_ids_stand_for_and_ones_own_settings_win():
    told = atari_protocols.settings("auto", {"repeat_action_probability": 0.1, "num_threads": 2})
    assert told == {
        **atari_protocols.settings("machado2018", {}),
        "repeat_action_probability": 0.1, "num_threads": 2,
    }  # fmt: skip
    assert atari_protocols.settings("auto", told) == told


@pytest.mark.parametrize(("protocol", "actions"), [("dqn2015", 4), ("machado2018", 18)])
def test_environments_are_what_the_protocol_says(protocol, actions):
    facts = probe_env(EnvRecipe("ALE/Breakout-v5", atari_protocol=protocol))
    assert facts.obs_shape == (4, 84, 84)
    assert (facts.obs_dtype, facts.num_actions) == (np.uint8, actions)
    assert facts.max_episode_steps == 27_000


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ({"env": "ALE/Breakot-v5"}, "did you mean ALE/Breakout-v5"),
        ({"env": "ale/breakout-v5"}, "did you mean ALE/Breakout-v5"),
        ({"vectorization": "sync", "atari_protocol": "dqn2015"}, "does not step ALE/Pong-v5"),
        ({"env": "CartPole-v1", "atari_protocol": "dqn2015"}, "does not step CartPole-v1"),
        ({"atari_protocol": "none"}, "need one of dqn2015, machado2018"),
        ({"kwargs": {"episodic_life": True}}, "use life_loss_info=True"),
        ({"kwargs": {"batch_size": 2}}, "use --env-batch-size"),
        ({"kwargs": {"img_height": 1_000_000}}, "img_height in env_kwargs is '1000000'"),
        ({"kwargs": {"img_width": "a"}}, "a whole number from 1 to 1,000"),
        ({"kwargs": {"stack_num": 0}}, "stack_num in env_kwargs is '0'"),
        ({"kwargs": {"frameskip": True}}, "frameskip in env_kwargs is 'True'"),
        ({"kwargs": {"noop_max": -1}}, "a whole number from 0 to 1,000,000"),
        ({"kwargs": {"max_num_frames_per_episode": 0}}, "a whole number from 1 to 2,147,483,647"),
        ({"kwargs": {"repeat_action_probability": 2}}, "a number from 0.0 to 1.0"),
        ({"kwargs": {"reward_clipping": "no"}}, "reward_clipping .* must be True or False"),
        ({"kwargs": {"full_action_space": None}}, "full_action_space .* must be True or False"),
        ({"kwargs": {"frame_skip": 2}}, "unexpected keyword argument 'frame_skip'"),
    ],
)
def test_what_cannot_be_had_is_one_line(recipe, line):
    with pytest.raises(ValueError, match=line) as raised:
        probe_env(EnvRecipe(**{"env": "ALE/Pong-v5", **recipe}))
    assert "\n" not in str(raised.value)


def test_a_wrapped_game_answers_for_no_part_of_its_environments():
    config = Config(env_id="ALE/Pong-v5", num_envs=4, env_batch_size=2)
    assert config.problems() == []
    (line,) = config.replace(wrapper=("FlattenObservation",)).problems()
    assert "steps all 4 environments together" in line


def test_without_the_package_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.setattr(gymnasium, "registry", {})
    with pytest.raises(ValueError, match=r"pip install 'fastdqn\[atari\]'"):
        find_spec("ALE/Pong-v5")


@pytest.mark.slow
def test_the_learner_sees_clipped_rewards_and_the_caller_keeps_true_ones():
    replay = Replay(
        Ring(1, 8), RowStore(1, 8, (1,), np.uint8), UniformSampler(1),
        n_steps=2, gamma=0.5, reward_bound=1.0,
    )  # fmt: skip
    replay.start([0], np.zeros((1, 1)))
    true = np.array([7.0], np.float32)
    for reward in (true, [-3.0], [0.25]):
        replay.add([0], [0], reward, np.zeros((1, 1)))
    assert replay.ring.reward[0, :3].tolist() == [1.0, -1.0, 0.25]
    assert true[0] == 7.0
    batch = replay.new_batch(8)
    replay.sample(batch)
    assert set(batch.reward.tolist()) == {0.5, -0.875}


def breakout(tmp_path, **overrides) -> Config:
    return small(
        tmp_path, env_id="ALE/Breakout-v5", atari_protocol="dqn2015", total_timesteps=600,
        eval_max_steps=40, env_kwargs={"img_height": 20, "img_width": 16}, device="cpu",
    ).replace(**overrides)  # fmt: skip


@pytest.mark.slow
def test_rewards_are_normalised_by_what_is_left_of_them_once_clipped(tmp_path):
    session = build.build(setup_of(breakout(tmp_path, normalize_reward=True)), lambda _: Silent())
    session.close()
    replay, follower = session.run.replay, session.run.followers["normalizer"]
    lanes, none = np.arange(2), np.zeros(0, np.int64)
    obs, never = np.zeros((2, *replay.store.obs_shape), np.uint8), np.zeros(2, np.bool_)
    for reward in ([200.0, -7.0], [0.5, 400.0]) * 10:
        follower.follow(
            Step(lanes, lanes, np.array(reward, np.float32), never, never, obs,
                 none, obs[:0], none, np.zeros(0), none)
        )  # fmt: skip
    assert replay.reward_scale > 0.1


@pytest.mark.slow
def test_a_run_records_every_setting_frames_and_true_scores(tmp_path):
    rewards, learned = [], set()

    def on_step(progress, step):
        rewards.extend(step.reward.tolist())

    def on_update(progress, batch, priority):
        learned.update(batch.reward.tolist())

    run = fastdqn.train(
        breakout(tmp_path, env_kwargs={"img_height": 20, "img_width": 16, "frameskip": 8}),
        env_id="ALE/SpaceInvaders-v5", total_timesteps=1_600, on_step=on_step, on_update=on_update,
    )  # fmt: skip
    config = Config.from_json((run.folder / "config.json").read_text())
    own = {"img_height": 20, "img_width": 16, "frameskip": 8}
    assert config.env_kwargs == atari_protocols.settings("dqn2015", own)
    assert (config.atari_protocol, config.vectorization) == ("dqn2015", "native")
    assert run.summary["total_frames"] == 8 * run.summary["total_steps"]
    (*_, last) = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["time/total_frames"] == run.summary["total_frames"]
    assert max(rewards) >= 5
    assert max(learned) == 1.0
    (*_, first) = (run.folder / "episodes.csv").read_text().splitlines()[:2]
    assert float(first.split(",")[3]) % 5 == 0


@pytest.mark.slow
def test_an_evaluation_ends_where_games_do(tmp_path):
    recipe = EnvRecipe("ALE/Breakout-v5", atari_protocol="dqn2015")
    told = recipe.for_scores().atari_settings()
    assert told == {**atari_protocols.settings("dqn2015", {}), "life_loss_info": False}
    rng = np.random.default_rng(0)
    played = fastdqn.evaluate(
        lambda obs: rng.integers(4, size=len(obs)), "ALE/Breakout-v5", episodes=2,
        full_action_space=False, life_loss_info=True, img_height=20, img_width=16,
    )  # fmt: skip
    assert played.lengths.min() > 80  # five lives; one takes 20 to 50
    assert played.cut == 0


@pytest.mark.slow
def test_a_run_of_environments_that_answer_first_is_resumed_on_games_that_begin_anew(tmp_path):
    config = breakout(tmp_path, env_batch_size=2, checkpoint_seconds=None)
    part = fastdqn.train(config, on_step=stopping_at(300))
    assert part.summary["exit_reason"] == "interrupted"
    run = fastdqn.resume(part.folder)
    assert run.summary["exit_reason"] == "budget spent"
    assert 600 <= run.summary["total_steps"] <= 601  # a lane that resets in the last call


@pytest.mark.slow
def test_environments_that_were_handed_in_have_no_protocol(tmp_path):
    envs = ale_py.AtariVectorEnv("breakout", 4)
    with pytest.raises(ConfigError, match="atari_protocol do not apply to a VectorEnv"):
        fastdqn.train(breakout(tmp_path), envs)
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atari-breakout", "atari-rainbow"])
def test_a_preset_of_atari_takes_a_step_and_an_update(tmp_path, name):
    run = fastdqn.train(
        name, num_envs=4, total_timesteps=60, learning_starts=40, buffer_size=200, eval_frequency=0,
        eval_episodes=1, eval_max_steps=3, stop_at_return=None, hidden_sizes=(8,), device="cpu",
        tensorboard=False,
        run_dir=str(tmp_path / "run"), env_kwargs={"img_height": 84, "noop_max": 3},
    )  # fmt: skip
    assert run.summary["updates"] >= 1
    config = json.loads((run.folder / "config.json").read_text())
    assert config["env_kwargs"]["noop_max"] == 3
