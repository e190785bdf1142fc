"""EnvFacts: what the start of a run prints of its environment."""

import gymnasium
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeLimit

import fastdqn
from fastdqn.envs import EnvRecipe, probe_env
from helpers.loop import small
from helpers.sub_env import Plain


def stacked() -> gymnasium.Env:
    return FrameStackObservation(TimeLimit(Plain(), 1_500), 4)


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ("CartPole-v1", "observations [4] float32, 2 actions, time limit 500 steps"),
        (Plain, "observations [1] float32, 2 actions, no time limit declared"),
        (
            stacked,
            "observations [4, 1] float32, 2 actions, time limit 1,500 steps, 4 stacked frames",
        ),
        (
            "Taxi-v4",
            "observations [500] uint8, 6 actions, time limit 200 steps, "
            "action masks from info['action_mask']",
        ),
    ],
)
def test_what_was_found(env, text):
    assert str(probe_env(EnvRecipe(env))) == text


@pytest.mark.parametrize(
    ("env", "is_cut"), [(Plain, True), (lambda: TimeLimit(Plain(), 30), False)]
)
def test_the_start_of_a_run_says_how_evaluations_are_cut(env, is_cut, tmp_path, capsys):
    fastdqn.train(small(tmp_path, eval_frequency=500), env, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("environment ")]
    assert len(found) == 1
    assert found[0].endswith("no time limit declared" if is_cut else "time limit 30 steps")
    cut = "evaluation episodes without an end are cut at 100 steps (--eval-max-steps): an"
    assert (f"{cut} evaluation has up to 200 steps" in lines) == is_cut
