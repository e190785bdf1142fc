"""resume(): a run that is stopped and resumed equals one that was never stopped."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn import session
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.cli import main as cli
from fastdqn.envs import EnvStream
from fastdqn.replay import Replay
from fastdqn.seeding import TRAIN, env_seed
from helpers.cost import slow_but
from helpers.far_env import Far
from helpers.loop import small
from helpers.resumed_runs import (
    ASKED,
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    episodes,
    nothing,
    rows,
    stopping_at,
)

VARIANTS = {
    "compiled": {},
    "native": {"vectorization": "native"},
    "sync": {"vectorization": "sync", "n_steps": 3, "tau": 0.1, "exploration_zeta": 1.5},
    "buffered": {
        "vectorization": "workers", "workers": 2, "env_batch_size": 2, "double_buffering": True,
    },
    "masks": {"env_id": "Taxi-v4", "eval_max_steps": 50},
    "ladder": {"exploration": "ladder", "double": False, "dueling": False},
    "normalized": {"normalize_observation": True, "normalize_reward": True, "n_steps": 2},
    "wrapped": {"env_id": "MountainCar-v0", "wrapper": ("TimeAwareObservation",)},
    "rainbow": {"prioritized": True, "noisy": True, "n_steps": 3, "value": "categorical"},
    "implicit": {"value": "implicit-quantile", "munchausen": True, "noisy": True},
    "quantile": {"value": "quantile", "prioritized": True},
    "late": {
        "prioritized": True, "priority_lag": 1, "updates_per_launch": 2, "train_frequency": 1,
    },
    "ablated": {"replay": False, "target_network": False, "n_steps": 3},
    "episodes": {"total_timesteps": None, "total_episodes": 40, "exploration_decay": 0.9},
}  # fmt: skip


# Before the first update little of a variant exists.
@pytest.mark.parametrize(
    ("variant", "stop_at"),
    slow_but([*((variant, 437) for variant in VARIANTS), ("native", 30), ("rainbow", 30)], 1),
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, variant, stop_at):
    options = {"eval_frequency": 250, "log_frequency": 90, **VARIANTS[variant]}
    config = small(tmp_path, total_timesteps=1_000).replace(**options)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(stop_at))
    assert part.summary["exit_reason"] == "interrupted"
    assert stop_at <= part.summary["total_steps"] < stop_at + config.num_envs
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_the_preset_cartpole_rainbow_resumes_exactly(tmp_path):
    config = fastdqn.PRESETS["cartpole-rainbow"].replace(
        total_timesteps=2_400, learning_starts=500, eval_frequency=900, eval_episodes=2,
        eval_max_steps=50, stop_at_return=None, tensorboard=False,
    )  # fmt: skip
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(1_300))
    assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_resumes_exactly(tmp_path, mode):
    def envs():
        return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 4, autoreset_mode=mode)

    config = small(tmp_path, n_steps=3, total_timesteps=900)
    whole = fastdqn.train(config, envs(), run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, envs(), run_dir=str(tmp_path / "part"), on_step=stopping_at(400))
    fastdqn.resume(part.folder, envs(), on_step=nothing)
    assert_same_run(whole.folder, part.folder)


def test_environments_passed_from_python_are_not_created_by_name(tmp_path):
    envs = gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync")
    part = fastdqn.train(small(tmp_path), envs, on_step=stopping_at(30))
    with pytest.raises(fastdqn.ConfigError, match="pass them again"):
        fastdqn.resume(part.folder, on_step=stopping_at(60))
    assert fastdqn.resume(part.folder, envs, on_step=nothing).summary["total_steps"] > 60


@pytest.mark.slow
def test_a_run_may_be_stopped_and_resumed_repeatedly(tmp_path):
    config = small(tmp_path, total_timesteps=1_000, eval_frequency=300, checkpoint_frequency=100)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(200))
    for at in (204, 417, 650, 980):
        part = fastdqn.resume(part.folder, on_step=stopping_at(at))
        assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_a_stop_in_an_evaluation_repeats_it_and_its_rows(tmp_path):
    """The run is stopped in the confirmation of its second evaluation."""
    config = small(tmp_path, total_timesteps=800, eval_frequency=200, stop_at_return=1.0)
    seen = []

    def on_evaluation(steps, kind, evaluation):
        seen.append(kind)
        if seen == ["eval"]:
            ASKED.set()

    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"))
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_evaluation=on_evaluation)
    assert part.summary["exit_reason"] == "interrupted"
    assert seen == ["eval"]
    resumed = fastdqn.resume(part.folder, on_evaluation=on_evaluation)
    assert seen[1:3] == ["eval", "confirm"]
    assert resumed.summary["solved"]["steps"] == whole.summary["solved"]["steps"]
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_environments_that_cannot_be_restored_are_reset_with_a_remark(tmp_path, capsys):
    config = small(tmp_path, total_timesteps=900)
    part = fastdqn.train(config, Far, on_step=stopping_at(405))
    before = json.loads((part.folder / "summary.json").read_text())
    run = fastdqn.resume(part.folder, Far, quiet=False)
    assert "their open episodes are truncated" in capsys.readouterr().out
    assert run.summary["total_steps"] >= 900 > before["total_steps"]
    lengths = [int(line.split(",")[4]) for line in episodes(part.folder)]
    assert set(lengths) == {10}  # the open ones are no episodes of their own


@pytest.mark.slow
def test_without_the_replay_learning_restarts_without_extra_updates(tmp_path, capsys):
    config = small(tmp_path, total_timesteps=1_200, checkpoint_replay=False)
    part = fastdqn.train(config, on_step=stopping_at(600))
    made = []
    run = fastdqn.resume(
        part.folder, quiet=False, on_update=lambda progress, *_: made.append(progress.steps)
    )
    said = capsys.readouterr().out
    assert "the replay was not saved" in said
    assert "the environments could not be restored" in said  # an episode begins in both
    starts, per = config.learning_starts, config.train_frequency
    assert made[0] >= part.summary["total_steps"] + starts
    first = part.summary["total_steps"] + starts
    assert len(made) == 1_200 // per - first // per
    assert run.summary["updates"] == part.summary["updates"] + len(made)
    assert not list((run.folder / "checkpoints" / "segments").iterdir())


@pytest.mark.slow
def test_without_the_replay_late_priorities_are_dropped(tmp_path, monkeypatch):
    config = small(tmp_path, total_timesteps=600, checkpoint_replay=False).replace(
        prioritized=True, priority_lag=1
    )
    part = fastdqn.train(config, on_step=stopping_at(300))
    given = []
    monkeypatch.setattr(
        Replay, "update_priorities", lambda self, index, _: given.append(index.tolist())
    )
    made = []
    fastdqn.resume(part.folder, on_update=lambda _, batch, __: made.append(batch.index.tolist()))
    assert len(made) > 1
    assert given == made[:-1]


def test_a_new_total_continues_and_schedules_keep_their_horizon(tmp_path):
    config = small(tmp_path, total_timesteps=500, exploration_fraction=1.0)
    run = fastdqn.train(config)
    longer = fastdqn.resume(run.folder, total_timesteps=900)
    assert longer.summary["total_steps"] >= 900
    explored = [row["rollout/exploration_rate"] for row in rows(run.folder)]
    assert explored[-1] == 0.05
    part = fastdqn.resume(run.folder, total_timesteps=1_300, on_step=stopping_at(1_000))
    assert part.summary["exit_reason"] == "interrupted"
    assert fastdqn.resume(run.folder).summary["total_steps"] >= 1_300  # the total is remembered


def test_a_finished_run_is_left_unchanged(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, total_timesteps=500))
    before = (run.folder / "policy.safetensors").read_bytes()
    again = fastdqn.resume(run.folder)
    assert again.summary["total_steps"] == run.summary["total_steps"]
    assert (run.folder / "policy.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_stop_in_the_last_evaluation_repeats_only_that(tmp_path):
    config = small(tmp_path, total_timesteps=700, eval_frequency=500)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(700))
    assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)
    fastdqn.resume(part.folder, on_step=nothing)  # its checkpoint is of before: judged once more
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
def test_a_solved_run_continues_to_a_new_total(tmp_path):
    config = small(tmp_path, total_timesteps=800, eval_frequency=200, stop_at_return=1.0)
    run = fastdqn.train(config)
    assert run.summary["exit_reason"] == "solved"
    longer = fastdqn.resume(run.folder, total_timesteps=700)
    assert longer.summary["total_steps"] > run.summary["total_steps"]


def test_the_best_weights_are_those_of_the_checkpoint(tmp_path):
    config = small(tmp_path, total_timesteps=900, eval_frequency=200)
    part = fastdqn.train(config, on_step=stopping_at(450))
    best = part.folder / "best.safetensors"
    found = load_checkpoint(part.folder)
    assert best.read_bytes() == found.best
    best.unlink()  # it is a link to that of the checkpoint
    best.write_bytes(b"of a later evaluation, after which the run was killed")
    fastdqn.resume(part.folder, on_step=stopping_at(460))
    assert best.read_bytes() == found.best


@pytest.mark.slow
def test_seconds_are_added_to_those_from_before(tmp_path):
    part = fastdqn.train(small(tmp_path, total_timesteps=900), on_step=stopping_at(850))
    before = load_checkpoint(part.folder).state["phase_seconds"]
    after = fastdqn.resume(part.folder).summary["phase_seconds"]
    assert before["env"] > 0
    assert all(after[name] >= seconds for name, seconds in before.items())


@pytest.mark.slow
def test_a_reset_at_a_resume_repeats_no_episode(tmp_path, monkeypatch):
    seeds, start = [], EnvStream.start
    monkeypatch.setattr(
        EnvStream, "start", lambda self, seed: seeds.append(seed) or start(self, seed)
    )
    config = small(tmp_path, total_timesteps=300, eval_episodes=1)
    part = fastdqn.train(config, Far, on_step=stopping_at(100))
    fastdqn.resume(part.folder, Far)
    steps = part.summary["total_steps"]
    assert env_seed(config.seed, TRAIN) != env_seed(config.seed, TRAIN, steps)
    assert env_seed(config.seed, TRAIN, steps) in seeds


@pytest.mark.slow
def test_rows_that_are_on_disk_are_not_written_again(tmp_path):
    config = small(tmp_path, total_timesteps=900, buffer_size=5_000)
    part = fastdqn.train(config, on_step=stopping_at(400))
    fastdqn.resume(part.folder)
    first, second = load_checkpoint(part.folder).listed
    np.testing.assert_array_equal(second.first, first.last - 2)


@pytest.mark.slow
def test_a_run_stopped_in_its_final_evaluation_reports_it(tmp_path, monkeypatch):
    evaluated = session.evaluate

    def stopping(*args):
        ASKED.set()
        return evaluated(*args)

    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate", stopping)
        words = "--total-timesteps 1500 --stop-at-return None --eval-frequency 0 --quiet"
        words += " --final-evaluation True --run-dir"
        assert cli.main(["train", "cartpole", *words.split(), str(tmp_path / "run")]) == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "budget spent; the final evaluation was interrupted"
    assert fastdqn.resume(tmp_path / "run").summary["eval"] is not None
