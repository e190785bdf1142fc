"""Whole runs: compiled environments give the bytes of sync, and resume exactly."""

import json

import gymnasium
import pytest

import fastdqn
from fastdqn.envs.make import EnvRecipe
from helpers.loop import small
from helpers.resumed_runs import (
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    nothing,
    stopping_at,
)

RUNS = [
    {"env_id": "CartPole-v1", "n_steps": 3, "prioritized": True, "total_timesteps": 900},
    {"env_id": "MountainCar-v0", "env_kwargs": {"max_episode_steps": 30}},
    {"env_id": "Taxi-v4", "eval_max_steps": 50, "env_kwargs": {"max_episode_steps": 40}},
    {"env_id": "FrozenLake-v1"},
    {"env_id": "fastdqn/Catch-v0", "n_steps": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS, ids=lambda options: options["env_id"])
def test_a_run_equals_that_of_sync(tmp_path, options):
    runs = [
        fastdqn.train(small(tmp_path / how, vectorization=how, **options), on_step=nothing)
        for how in ("sync", "compiled")
    ]
    assert_same_run(*(run.folder for run in runs))
    assert runs[1].summary["episodes"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS[::2], ids=lambda options: options["env_id"])
def test_a_run_resumes_exactly(tmp_path, options):
    config = small(tmp_path, **options)
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(333))
    assert part.summary["exit_reason"] == "interrupted"
    config_file = json.loads((part.folder / "config.json").read_text())
    assert config_file["vectorization"] == "compiled"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.parametrize(
    ("recipe", "selected"),
    [
        (EnvRecipe("CartPole-v1"), "compiled"),
        (EnvRecipe("MountainCar-v0", kwargs={"max_episode_steps": 5}), "compiled"),
        (EnvRecipe("fastdqn/Acrobot-v1"), "compiled"),
        (EnvRecipe("Acrobot-v1"), "sync"),
        (EnvRecipe("CartPole-v1", wrappers=("TimeAwareObservation",)), "sync"),
        (EnvRecipe("FrozenLake-v1", info_keys=("prob",)), "sync"),
        (EnvRecipe("Taxi-v4", kwargs={"fickle_passenger": True}), "sync"),
        (EnvRecipe("fastdqn/Catch-v0", info_keys=("score",)), "compiled"),
    ],
    ids=str,
)
def test_auto_is_compiled_only_if_the_results_are_those_of_sync(recipe, selected):
    assert recipe.resolve() == selected


def test_the_time_limit_is_that_of_the_arguments():
    def limit_of(**kwargs):
        recipe = EnvRecipe("MountainCar-v0", kwargs=kwargs)
        return recipe.make(1).definition.max_episode_steps, recipe.max_episode_steps()  # pyright: ignore[reportAttributeAccessIssue]

    assert limit_of() == (200, 200)
    assert limit_of(max_episode_steps=7) == (7, 7)
    assert limit_of(max_episode_steps=-1) == (None, None)


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (EnvRecipe("Acrobot-v1", "compiled"), "Acrobot-v1 has no compiled form. To write one, see"),
        (
            EnvRecipe("fastdqn/Catch-v0", info_keys=("score",)),
            "return no info, and so no score: omit",
        ),
        (
            EnvRecipe("CartPole-v1", "compiled", {"pole": 2}),
            "CartPole-v1 with the arguments pole has no compiled form",
        ),
        (
            EnvRecipe("CartPole-v1", "compiled", wrappers=("TimeAwareObservation",)),
            "takes no wrapper: use --vectorization sync or workers",
        ),
        (EnvRecipe(gymnasium.Env, "compiled"), r"register it with fastdqn.compiled.register\(\)"),
        (
            EnvRecipe("CartPole-v1", "compiled", {"max_episode_steps": 2.5}),
            "cannot be made: max_episode_steps is 2.5",
        ),
        (
            EnvRecipe("FrozenLake-v1", "compiled", {"map_name": "9x9"}),
            "FrozenLake-v1 cannot be made: KeyError: '9x9'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_compiled_is_one_line(recipe, line):
    with pytest.raises(ValueError, match=line) as caught:
        recipe.make(2)
    assert "\n" not in str(caught.value)
