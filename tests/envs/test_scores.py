"""Human-normalized scores: the table and the ids."""

import json

import gymnasium
import pytest

import fastdqn
from fastdqn.cli import main as cli
from fastdqn.envs.atari_scores import game_of, human_normalized, references


@pytest.mark.parametrize(
    ("env_id", "game"),
    [
        ("ALE/Pong-v5", "pong"),
        ("ale_py:ALE/Pong-v5", "pong"),
        ("SpaceInvaders-v5", "space_invaders"),
        ("ALE/UpNDown-v5", "up_n_down"),
        ("ALE/Qbert-v5", "qbert"),
        ("ALE/Tetris-v5", None),
        ("MinAtar/Breakout-v1", None),
        ("Breakout-v0", None),
        ("CartPole-v1", None),
    ],
)
def test_an_id_maps_to_its_game(env_id, game):
    assert game_of(env_id) == game


def test_random_is_zero_human_is_one_and_other_environments_have_none():
    assert len(references()) == 57
    for reference in references().values():
        assert reference.human > reference.random
    assert human_normalized("ALE/Pong-v5", -20.7) == 0
    assert human_normalized("ALE/Pong-v5", 14.6) == 1
    assert human_normalized("ALE/Skiing-v5", -10717.3) == pytest.approx(0.5, abs=1e-4)
    assert human_normalized("CartPole-v1", 500) is None


def test_every_game_of_the_table_is_registered():
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    found = {game_of(env_id) for env_id in gymnasium.registry if env_id.startswith("ALE/")}
    assert found - {None} == references().keys()


def test_evaluations_of_other_environments_have_null(tmp_path, capsys):
    run = fastdqn.train(
        "cartpole", total_timesteps=200, learning_starts=50, eval_frequency=0, eval_episodes=1,
        final_evaluation=True,
        run_dir=str(tmp_path / "run"), tensorboard=False, stop_at_return=None,
    )  # fmt: skip
    assert run.summary["eval"]["human_normalized"] is None
    assert cli.main(["eval", str(run.folder), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["human_normalized"] is None


def test_eval_and_summary_of_a_game_have_its_score(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastdqn.envs.atari_scores.game_of", lambda env_id: "pong")
    run = fastdqn.train(
        "cartpole", total_timesteps=200, learning_starts=50, eval_frequency=0, eval_episodes=1,
        final_evaluation=True,
        run_dir=str(tmp_path / "run"), tensorboard=False, stop_at_return=None,
        eval_max_steps=5,
    )  # fmt: skip
    score = (5 + 20.7) / (14.6 + 20.7)
    assert run.summary["eval"]["human_normalized"] == pytest.approx(score)
    assert cli.main(["eval", str(run.folder), "--episodes", "1", "--max-steps", "5"]) == 0
    assert f"human-normalized {score:.2f}\n" in capsys.readouterr().out
