"""Environments and torsos passed in by the user are recorded and must be passed in again."""

import functools
import json
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import fastdqn
from fastdqn.config.schema import ConfigError
from fastdqn.files.run_folder import HandedIn, name_of, read_handed_in
from helpers.command_line import ask
from helpers.far_env import Far
from helpers.loop import small


def make_mine(**kwargs):
    return gymnasium.make("CartPole-v1", **kwargs)


class Flat(torch.nn.Linear):
    """As wide as the torso of the options, so weights alone cannot distinguish them."""

    def __init__(self):
        super().__init__(4, 16)


@pytest.fixture(scope="module")
def by_id(tmp_path_factory) -> Path:
    """A run of environments that are made of their id."""
    return fastdqn.train(short(tmp_path_factory.mktemp("id"))).folder


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A run of a factory's environments, by the settings of another."""
    config = short(tmp_path_factory.mktemp("given"), preset="acrobot", env_id="Acrobot-v1")
    return fastdqn.train(config, make_mine).folder


@pytest.fixture(scope="module")
def with_torso(tmp_path_factory) -> Path:
    return fastdqn.train(short(tmp_path_factory.mktemp("torso")), torso=Flat()).folder


def short(folder: Path, **changes) -> fastdqn.Config:
    return small(folder, total_timesteps=300, eval_episodes=1, **changes)


def vector(make=make_mine, count=4) -> SyncVectorEnv:
    return SyncVectorEnv([make] * count)


def test_a_record_names_the_objects_that_were_passed_in(given, by_id, with_torso):
    assert read_handed_in(given) == HandedIn("test_handed_in:make_mine", None)
    assert read_handed_in(by_id) == HandedIn(None, None)
    assert read_handed_in(with_torso) == HandedIn(None, "test_handed_in:Flat")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (make_mine, "test_handed_in:make_mine"),
        (functools.partial(make_mine, render_mode=None), "test_handed_in:make_mine"),
        (Far, "helpers.far_env:Far"),
        (Flat(), "test_handed_in:Flat"),
    ],
)
def test_a_name_consists_of_module_and_function_or_class(value, name):
    assert name_of(value) == name


@pytest.mark.parametrize("words", ["eval {} --episodes 1", "video {} --episodes 1", "resume {}"])
def test_no_command_makes_environments_by_their_id_instead(given, words):
    code, out, (line,) = ask(*words.format(given).split())
    assert (code, out) == (2, "")
    assert "were passed from Python" in line
    assert "test_handed_in:make_mine" in line or "fastdqn.resume(run, envs)" in line


def test_another_environment_may_be_named_on_purpose(given):
    code, _, lines = ask("eval", str(given), "--episodes", "1", "--env-id", "CartPole-v1")
    assert (code, lines) == (0, [])


@pytest.mark.slow
def test_doctor_and_report_show_it(given):
    _, out, _ = ask("doctor", str(given))
    assert "Acrobot-v1, envs passed from Python (test_handed_in:make_mine)" in out
    assert "resume from Python, with the objects it was given: fastdqn.resume(" in out
    assert ask("report", str(given))[0] == 0
    page = (given / "report.html").read_text()
    assert "Acrobot-v1 (passed from Python: test_handed_in:make_mine)" in page
    assert "--env-id my_package:MyEnv-v0" in page


def test_a_run_resumes_with_the_same_objects(given):
    with pytest.raises(ConfigError, match="pass them again"):
        fastdqn.resume(given, total_timesteps=400)
    assert fastdqn.resume(given, make_mine, total_timesteps=400).summary["total_steps"] >= 400


@pytest.mark.slow
def test_an_older_run_without_the_record_is_evaluated_and_resumed(tmp_path):
    run = fastdqn.train(short(tmp_path)).folder
    system = json.loads((run / "system.json").read_text())
    del system["handed_in"]
    (run / "system.json").write_text(json.dumps(system))
    assert ask("eval", str(run), "--episodes", "1")[0] == 0
    assert fastdqn.resume(run, total_timesteps=400).summary["total_steps"] >= 400


@pytest.mark.parametrize("text", ['{"handed_in": 3}', '{"handed_in": {"envs": 3}}', "[", "3"])
def test_an_invalid_record_is_one_line(tmp_path, text):
    (tmp_path / "system.json").write_text(text)
    with pytest.raises(ConfigError, match=r"system\.json") as caught:
        read_handed_in(tmp_path)
    assert len(caught.value.lines) == 1


class Wide(Far):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"envs": "MountainCar-v0"},
            "envs is the id 'MountainCar-v0': a run keeps its",
        ),
        ({"envs": make_mine}, "made from its env_id, 'CartPole-v1'"),
        ({"envs": 3}, "envs is of type int"),
        ({"torso": "x"}, "torso cannot change"),
        ({"value": "quantile"}, "value cannot change"),
        ({"gamma": 0.9}, "gamma cannot change"),
        ({"loss": lambda prediction, target: target}, "the run had none: leave it out"),
        ({"torso": Flat()}, "torso is test_handed_in:Flat, and the run had none"),
        ({"eval_envs": 3}, "eval_envs is of type int"),
        ({"eval_envs": vector(Wide)}, "eval_envs have other spaces than envs"),
    ],
    ids=[
        "id",
        "factory",
        "number",
        "torso name",
        "value name",
        "option",
        "loss",
        "torso",
        "eval_envs",
        "other spaces",
    ],
)
def test_resume_rejects_other_arguments_than_the_runs(by_id, changes, says):
    before = sorted(by_id.rglob("*"))
    with pytest.raises(ConfigError, match=says) as caught:
        fastdqn.resume(by_id, total_timesteps=400, **changes)
    assert len(caught.value.lines) == 1
    assert sorted(by_id.rglob("*")) == before


@pytest.mark.parametrize(
    ("envs", "says"),
    [
        (vector(count=3), "num_envs is 4, but envs has 3"),
        (vector(Wide), r"5 actions, and the run was\s+trained on \(4,\) and 2"),
        (Wide, r"5 actions, and the run was\s+trained on \(4,\) and 2"),
    ],
    ids=["count", "envs", "factory"],
)
def test_other_environments_than_the_runs_are_not_reported_as_damage(given, envs, says):
    with pytest.raises(ConfigError, match=says):
        fastdqn.resume(given, envs, total_timesteps=1_000)


def test_a_custom_torso_must_be_passed_in_again(with_torso):
    with pytest.raises(ConfigError, match=r"passed from Python \(test_handed_in:Flat\).*torso="):
        fastdqn.resume(with_torso, total_timesteps=400)
    run = fastdqn.resume(with_torso, torso=Flat(), total_timesteps=400)
    assert run.summary["total_steps"] >= 400


@pytest.mark.parametrize("envs", [None, make_mine, vector()], ids=["id", "factory", "envs"])
def test_evaluation_environments_are_compared_with_training_environments_at_the_start(
    tmp_path, envs
):
    with pytest.raises(ConfigError, match=r"eval_envs have other spaces.*num_actions 5, not 2"):
        fastdqn.train(short(tmp_path), envs, eval_envs=vector(Wide))
    assert not list(tmp_path.iterdir())
