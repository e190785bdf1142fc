"""A resumed run takes other options: what changes, what carries over, and what is recorded."""

import json

import numpy as np
import pytest

import fastdqn
from fastdqn import ConfigError
from fastdqn.builders import build, changed_options
from fastdqn.builders.changed_options import Course
from fastdqn.builders.user_object_checks import prepared_to_resume
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.cli.main import main
from fastdqn.files.run_lock import RunLock
from fastdqn.logging.console import Silent
from fastdqn.replay import PrioritizedSampler
from fastdqn.replay.ring import LIVE
from fastdqn.resuming import config_of, stored_config
from helpers.loop import small

# By what an unchanged run continues, byte for byte.
PER = {"prioritized": True, "n_steps": 2, "normalize_observation": True}


def start(folder, **options):
    return fastdqn.train(small(folder, final_evaluation=False, buffer_size=2_000, **options))


def built(folder, total=None, **changes):
    """Returns a resumed run before its next step, and its notes."""
    with RunLock(folder) as lock:
        place = lock.place
        found = load_checkpoint(place)
        current, had = config_of(place, found)
        from fastdqn.builders.parts import NO_PARTS

        setup = prepared_to_resume(current.replace(**changes), None, None, folder, NO_PARTS, [])
        session = build.build(
            setup, lambda _: Silent(), resumed=found, total_timesteps=total, had_timesteps=had,
            folder=place, course=Course(stored_config(found), current, setup.config),
        )  # fmt: skip
        session.close()
    return session.run, session.notes


def rows_of(replay):
    ring = replay.ring
    live = (ring.status & LIVE) > 0
    obs = np.empty((int(live.sum()), *replay.store.obs_shape), np.float32)
    replay.store.gather(np.flatnonzero(live), obs)
    rows = np.concatenate([obs, ring.action[live][:, None], ring.reward[live][:, None]], axis=1)
    return rows[np.lexsort(rows.T)]


def changes_in(folder):
    return [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]


def test_a_learning_rate_changes_and_everything_else_stays(tmp_path):
    run = start(tmp_path, **PER)
    same, _ = built(run.folder, total=900)
    assert not (run.folder / "changes.jsonl").exists()
    changed, notes = built(run.folder, total=900, learning_rate=1e-5)
    tensors = [each.learner._tensors() for each in (same, changed)]
    for name, tensor in tensors[0].items():
        if name != "optimizer_learning_rate":
            assert np.array_equal(tensor.numpy(), tensors[1][name].numpy()), name
    assert tensors[1]["optimizer_learning_rate"] == np.float32(1e-5)
    assert changed.start is None  # CartPole's environments continue exactly
    assert "changed since the checkpoint: learning_rate 0.0005 -> 1e-05" in notes
    differs = f"from step {same.progress.steps} on the run differs from one whose options did not"
    assert any(note.startswith(differs) for note in notes)
    row = {"from": 5e-4, "to": 1e-5}
    assert [each["changed"] for each in changes_in(run.folder)] == [{"learning_rate": row}]
    assert json.loads((run.folder / "config.json").read_text())["learning_rate"] == 1e-5


@pytest.mark.parametrize("num_envs", [2, 7])
def test_another_number_of_environments_keeps_the_transitions(tmp_path, num_envs):
    run = start(tmp_path, **PER)
    before, _ = built(run.folder)
    after, notes = built(run.folder, total=900, num_envs=num_envs)
    assert after.stream.num_lanes == after.replay.ring.num_lanes == num_envs
    assert np.array_equal(rows_of(after.replay), rows_of(before.replay))
    weights = [each.learner._tensors() for each in (before, after)]
    for name, tensor in weights[0].items():
        assert np.array_equal(tensor.numpy(), weights[1][name].numpy()), name
    statistics = [each.followers["normalizer"].state()["obs"] for each in (before, after)]
    assert statistics[0]["count"] == statistics[1]["count"]
    assert np.array_equal(statistics[0]["mean"], statistics[1]["mean"])
    assert isinstance(after.replay.sampler, PrioritizedSampler)
    assert after.progress.steps == before.progress.steps
    assert after.start is not None  # reset
    assert "the environments are reset, and their open episodes are truncated" in notes


def test_the_change_lasts_through_a_kill_and_further_checkpoints(tmp_path):
    run = start(tmp_path, checkpoint_frequency=200, **PER)
    built(run.folder, total=900, num_envs=3, learning_rate=1e-5)  # and killed before a checkpoint
    again = fastdqn.resume(run.folder, total_timesteps=900)
    stored = stored_config(load_checkpoint(run.folder))
    assert (stored.num_envs, stored.learning_rate) == (3, 1e-5)
    assert again.summary["total_steps"] >= 900
    assert len(changes_in(run.folder)) == 1
    whole = fastdqn.resume(run.folder, total_timesteps=1_200)  # from a checkpoint of 3 lanes
    assert whole.summary["total_steps"] >= 1_200
    assert whole.summary["episodes"] > again.summary["episodes"]


def test_a_kill_between_the_two_files_records_a_change_once(tmp_path, monkeypatch):
    run = start(tmp_path, **PER)
    write = changed_options.write_whole

    def killed(path, text):
        if str(path).endswith("config.json"):
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(changed_options, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            built(run.folder, learning_rate=1e-5)
    assert len(changes_in(run.folder)) == 1
    built(run.folder, learning_rate=1e-5)
    assert len(changes_in(run.folder)) == 1
    built(run.folder, learning_rate=1e-4)
    assert len(changes_in(run.folder)) == 2


def test_evaluations_begin_when_they_are_asked_for(tmp_path):
    run = start(tmp_path, eval_frequency=0)
    rest = fastdqn.resume(run.folder, total_timesteps=1_500, eval_frequency=300, batch_size=8)
    rows = [json.loads(line) for line in (rest.folder / "eval.jsonl").read_text().splitlines()]
    assert len(rows) >= 2
    assert (rest.folder / "best.safetensors").exists()
    assert stored_config(load_checkpoint(rest.folder)).batch_size == 8


def test_a_solved_run_goes_on_with_a_higher_goal(tmp_path):
    run = start(tmp_path, eval_frequency=100, stop_at_return=1.0)
    assert run.summary["exit_reason"] == "solved"
    assert run.summary["total_steps"] < 300
    rest = fastdqn.resume(run.folder, stop_at_return=1e6)
    assert rest.summary["exit_reason"] == "budget spent"
    assert rest.summary["solved"] is None
    assert rest.summary["total_steps"] >= 700


def test_schedules_and_exploration_change(tmp_path):
    run = start(tmp_path)
    changed, _ = built(
        run.folder, total=900, learning_rate_schedule="linear", exploration_final_eps=0.3
    )
    assert changed.learning_rate is not None
    assert changed.epsilon(10_000, 0) == pytest.approx(0.3)
    back, _ = built(run.folder, total=900, learning_rate_schedule="constant", learning_rate=2e-4)
    assert back.learning_rate is None
    assert back.learner._tensors()["optimizer_learning_rate"] == np.float32(2e-4)
    assert len(changes_in(run.folder)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 0.9}, "gamma cannot change when a run is resumed: start a new run from it"),
        ({"hidden_sizes": (9,)}, "--from RUN --hidden-sizes"),
        ({"learning_rat": 1}, "unknown option 'learning_rat': did you mean learning_rate?"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast': it must be a number"),
        ({"num_envs": 0}, "num_envs is 0: it must be a number, at least 1"),
        ({"batch_size": 4_000}, "a batch must fit into the replay buffer"),
    ],
)
def test_what_cannot_change_is_one_line(tmp_path, options, said):
    run = start(tmp_path)
    before = {path.name: path.read_bytes() for path in run.folder.glob("*.json")}
    with pytest.raises(ConfigError, match=said):
        fastdqn.resume(run.folder, total_timesteps=900, **options)
    assert {path.name: path.read_bytes() for path in run.folder.glob("*.json")} == before


def test_a_run_without_replay_keeps_its_sizes(tmp_path):
    run = start(tmp_path, replay=False)
    with pytest.raises(ConfigError, match="num_envs cannot change when a run without replay"):
        fastdqn.resume(run.folder, total_timesteps=900, num_envs=2)


@pytest.mark.slow
def test_a_run_of_two_halves_keeps_its_number_of_environments(tmp_path):
    run = start(tmp_path, num_envs=4, vectorization="workers", double_buffering=True)
    with pytest.raises(ConfigError, match="num_envs cannot change when a run of two halves"):
        fastdqn.resume(run.folder, total_timesteps=900, num_envs=2)


def test_the_command_line_changes_options(tmp_path, capsys):
    run = str(start(tmp_path).folder)
    assert main(["resume", run, "--gamma", "0.9"]) == 2
    assert "gamma cannot change when a run is resumed" in capsys.readouterr().err
    assert main(["resume", run, "--env-kwargs", "size=8"]) == 2  # its default is made anew
    assert "env_kwargs cannot change when a run is resumed" in capsys.readouterr().err
    words = ["--total-timesteps", "900", "--learning-rate", "1e-5", "--no-checkpoint-replay"]
    assert main(["resume", run, *words]) == 0
    said = capsys.readouterr().out
    assert "changed since the checkpoint: learning_rate 0.0005 -> 1e-05" in said
    assert "changed since the checkpoint: checkpoint_replay True -> False" in said


def test_auto_resume_of_the_first_command_keeps_the_change(tmp_path):
    config = small(tmp_path, final_evaluation=False)
    run = fastdqn.train(config)
    fastdqn.resume(run.folder, total_timesteps=900, learning_rate=1e-5)
    again = fastdqn.train(config, resume="auto")
    assert again.summary["total_steps"] >= 900
    assert json.loads((run.folder / "config.json").read_text())["learning_rate"] == 1e-5
