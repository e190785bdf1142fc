"""EnvRecipe: making environments, reading their spaces, and errors of one line."""

from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fastdqn.envs import EnvRecipe, nearest, read_spaces
from fastdqn.envs.observations import short

DISCRETE = spaces.Discrete(2)
BOX = spaces.Box(-1, 1, (3,), np.float32)


def test_auto_selects_the_native_class_if_there_is_one():
    spec = gymnasium.spec("CartPole-v1")
    gymnasium.register(
        "MyPole-v0", spec.entry_point, vector_entry_point=spec.vector_entry_point,
        max_episode_steps=9,
    )  # fmt: skip
    try:
        assert EnvRecipe("MyPole-v0", "auto").resolve() == "native"
    finally:
        del gymnasium.registry["MyPole-v0"]
    assert EnvRecipe("Acrobot-v1", "auto").resolve() == "sync"
    assert EnvRecipe("CartPole-v1", "async").resolve() == "async"
    envs = EnvRecipe("CartPole-v1", "native").make(3)
    assert isinstance(envs.unwrapped, CartPoleVectorEnv)
    assert envs.num_envs == 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_sync_environments_have_the_requested_autoreset_mode(mode):
    envs = EnvRecipe("MountainCar-v0", "sync").make(2, autoreset_mode=mode)
    assert isinstance(envs, SyncVectorEnv)
    assert (envs.num_envs, envs.autoreset_mode) == (2, mode)


def test_async_environments_are_made_on_request():
    envs = EnvRecipe("MountainCar-v0", "async").make(1)
    assert isinstance(envs, AsyncVectorEnv)
    envs.close()


@pytest.fixture
def register():
    """Register environments for one test."""
    names = []

    def add(name, entry_point, **kwargs):
        names.append(name)
        gymnasium.register(name, entry_point=entry_point, **kwargs)

    yield add
    for name in names:
        del gymnasium.registry[name]


def refusal(function, *args) -> str:
    """The text of the ValueError, which must be one line."""
    with pytest.raises(ValueError, match=r".+") as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrong", ["CartPol-v1", "cartpole-v1", "Cart-Pole-v1"])
def test_an_unknown_id_is_rejected_with_similar_ids(wrong):
    text = refusal(EnvRecipe(wrong).make, 1)
    assert text.startswith(f"no environment is registered as '{wrong}'")
    assert "did you mean CartPole-v1" in text


def test_an_id_without_similar_ids_is_rejected_in_one_line():
    text = refusal(EnvRecipe("Zzzzzz-v0").make, 1)
    assert "'Zzzzzz-v0'" in text
    assert "did you mean" not in text


@pytest.mark.parametrize("old", ["PongNoFrameskip-v4", "PongDeterministic-v0"])
def test_an_old_atari_id_is_rejected_with_the_current_one(old, monkeypatch):
    monkeypatch.delitem(gymnasium.registry, old, raising=False)  # where ale-py was imported
    text = refusal(EnvRecipe(old).make, 1)
    assert text.endswith(f"did you mean ALE/Pong-v5, or without a protocol ale_py:{old}?")


def test_nearest_ignores_case_and_may_find_nothing():
    assert nearest("mountaincar-v0", ["MountainCar-v0", "Acrobot-v1"]) == "MountainCar-v0"
    assert nearest("xyz", ["MountainCar-v0"]) == ""


def test_native_without_a_vector_class_names_the_alternatives():
    text = refusal(EnvRecipe("MountainCar-v0", "native").make, 1)
    assert "--vectorization sync or workers" in text


def test_a_module_that_is_missing_is_named():
    text = refusal(EnvRecipe("no_such_module_here:Game-v0").make, 1)
    assert "cannot import 'no_such_module_here'" in text


def test_a_package_that_is_missing_is_named_with_its_pip_line(register):
    def needs_a_package():
        raise gymnasium.error.DependencyNotInstalled("run `pip install \n some-package`")

    register("NeedsAPackage-v0", needs_a_package)
    text = refusal(EnvRecipe("NeedsAPackage-v0").make, 1)
    assert text.startswith("NeedsAPackage-v0 needs a package that is missing")
    assert "pip install some-package" in text


def test_an_unknown_constructor_argument_is_rejected():
    with pytest.raises(ValueError, match=r"MountainCar-v0 cannot be made: .*no_such_argument"):
        EnvRecipe("MountainCar-v0", kwargs={"no_such_argument": 1}).make(1)


def test_the_time_limit_is_the_registered_one_or_the_argument():
    limits = {None: 200, 7: 7, -1: None}
    for given, limit in limits.items():
        kwargs = {} if given is None else {"max_episode_steps": given}
        assert EnvRecipe("MountainCar-v0", kwargs=kwargs).max_episode_steps() == limit


@pytest.mark.parametrize(
    ("observation", "action", "says"),
    [
        (BOX, spaces.Box(-1, 1, (2,)), "continuous"),
        (BOX, spaces.MultiDiscrete([2, 3]), "not Discrete"),
        (BOX, spaces.MultiBinary(3), "not Discrete"),
        (spaces.Text(4), DISCRETE, "TransformObservation"),
        (spaces.Sequence(BOX), DISCRETE, "TransformObservation"),
        (spaces.Graph(BOX, None), DISCRETE, "TransformObservation"),
        (spaces.OneOf([BOX, DISCRETE]), DISCRETE, "TransformObservation"),
        (spaces.Box(0, 1, (0, 4)), DISCRETE, "has no numbers"),
    ],
)
def test_an_unsupported_space_is_named_with_the_remedy(observation, action, says):
    text = refusal(read_spaces, observation, action)
    assert says in text
    assert short(observation if action is DISCRETE else action) in text


def test_two_bad_spaces_are_both_named():
    text = refusal(read_spaces, spaces.Text(16), spaces.Box(-1, 1, (2,)))
    assert "Text(1, 16" in text
    assert "is continuous" in text


@pytest.mark.parametrize(
    ("space", "dtype", "scale"),
    [
        (spaces.Box(0, 255, (4, 8, 8), np.uint8), np.uint8, 1 / 255),
        (spaces.Box(0, 3, (4,), np.uint8), np.uint8, 1.0),
        (spaces.Box(0, 1, (10, 10, 4), cast(Any, np.bool_)), np.bool_, 1.0),
        (spaces.Box(-1, 1, (3,), np.float64), np.float32, 1.0),
        (spaces.Box(-1, 1, (), np.float32), np.float32, 1.0),
        (spaces.Box(0, 1000, (2,), np.int32), np.float32, 1.0),
    ],
)
def test_bytes_are_stored_as_bytes_and_scaled_if_they_are_full(space, dtype, scale):
    facts = read_spaces(space, spaces.Discrete(3, start=-1))
    assert (facts.obs_shape, facts.obs_dtype, facts.obs_scale) == (space.shape, dtype, scale)
    assert (facts.num_actions, facts.action_start) == (3, -1)
