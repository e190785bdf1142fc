"""Action masks in a key of the observation and of a method action_masks()."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn.envs import EnvError, EnvRecipe, EnvStream, probe_env
from helpers.loop import small


def allowed(t: int) -> np.ndarray:
    """The mask at step t: it changes with each step."""
    mask = np.zeros(4, np.int8)
    mask[[t % 4, (2 * t + 1) % 4]] = 1
    return mask


class Steps(gymnasium.Env):
    """Observes the step count; a forbidden action fails. Truncates after `length` steps."""

    observation_space: spaces.Space = spaces.Box(0.0, 99.0, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(4)

    def __init__(self, length=3):
        self.t, self.length = 0, length

    def observe(self) -> Any:
        return np.full(1, self.t, np.float32)

    def reset(self, *, seed=None, options=None) -> Any:
        self.t = 0
        return self.observe(), {}

    def step(self, action) -> Any:
        assert allowed(self.t)[action], f"action {action} is forbidden at step {self.t}"
        self.t += 1
        return self.observe(), 1.0, False, self.t == self.length, {}


class InObservation(Steps):
    observation_space = spaces.Dict(
        {"action_mask": spaces.MultiBinary(4), "observation": spaces.Box(0.0, 99.0, (1,))}
    )

    def observe(self):
        return {"action_mask": allowed(self.t), "observation": super().observe()}


class ByMethod(Steps):
    def action_masks(self):
        return allowed(self.t)


class Outside(gymnasium.Wrapper):
    """A wrapper with the method, as sb3-contrib's ActionMasker."""

    def action_masks(self):
        return allowed(self.env.unwrapped.t)  # pyright: ignore[reportAttributeAccessIssue]


def outside() -> gymnasium.Env:
    return gymnasium.wrappers.TransformReward(Outside(Steps()), lambda reward: float(reward) * 2)


SOURCES = [
    pytest.param(InObservation, "observation['action_mask']", id="observation"),
    pytest.param(ByMethod, "action_masks()", id="method"),
    pytest.param(outside, "action_masks()", id="wrapper"),
]


def assert_masks_fit(obs: np.ndarray, masks: np.ndarray | None) -> None:
    assert masks is not None
    for t, mask in zip(obs[:, -1].astype(int), masks, strict=True):
        np.testing.assert_array_equal(mask, allowed(t))


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
@pytest.mark.parametrize(("make", "source"), SOURCES)
def test_masks_belong_to_their_observations(make, source, vectorization, mode):
    recipe = EnvRecipe(make, vectorization)
    assert probe_env(recipe).mask_source == source
    stream = EnvStream(recipe.make(2, autoreset_mode=mode))
    step = stream.start(seed=0)
    assert_masks_fit(step.start_obs, step.start_mask)
    for _ in range(9):
        assert_masks_fit(stream.obs, stream.mask)
        assert stream.mask is not None
        stream.send(stream.mask.argmax(1))
        step = stream.recv()
        assert_masks_fit(step.next_obs, step.next_mask)
        assert_masks_fit(step.start_obs, step.start_mask)
    stream.close()


@pytest.mark.slow
@pytest.mark.parametrize(("make", "source"), SOURCES)
def test_a_run_takes_allowed_actions_only(make, source, tmp_path):
    steps = fastdqn.train(small(tmp_path), make).summary["total_steps"]
    assert steps >= small(tmp_path).total_timesteps


def test_the_mask_of_info_is_preferred():
    class Both(ByMethod):
        def reset(self, *, seed=None, options=None):
            return super().reset()[0], {"action_mask": np.ones(4, np.int8)}

    recipe = EnvRecipe(Both, "sync")
    stream = EnvStream(recipe.make(1))
    stream.start(seed=0)
    assert stream.mask is not None
    assert stream.mask.all()
    assert probe_env(recipe).mask_source == "info['action_mask']"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            np.ones(3),
            r"action_masks\(\) has shape \(3,\): expected one entry for each of 4 actions",
        ),
        (np.full(4, -np.inf), r"action_masks\(\) contains -inf: .* return mask == 0"),
        (np.zeros(4), "env 0: the action mask allows no action"),
        (list("abcd"), r"action_masks\(\) has dtype <U1: expected booleans, or 0 and 1"),
    ],
)
def test_an_invalid_mask_names_its_source(mask, message):
    class Bad(Steps):
        def action_masks(self):
            return mask

    stream = EnvStream(EnvRecipe(Bad, "sync").make(1))
    with pytest.raises(EnvError, match=message):
        stream.start(seed=0)


class Wide(Steps):
    """The key exists, but has no entry for each action."""

    observation_space = spaces.Dict(
        {"action_mask": spaces.MultiBinary(7), "observation": spaces.Box(0.0, 99.0, (1,))}
    )

    def observe(self):
        return {"action_mask": np.ones(7, np.int8), "observation": super().observe()}


@pytest.mark.parametrize(
    ("make_envs", "message"),
    [
        (
            lambda: SyncVectorEnv([InObservation]),
            r"the mask in observation\['action_mask'\] is not read from a VectorEnv .* info",
        ),
        (
            lambda: SyncVectorEnv([outside]),
            r"the masks of action_masks\(\) are not read from a VectorEnv .* pass a function",
        ),
        (
            lambda: EnvRecipe(Wide, "sync").make(1),
            r"observation\['action_mask'\] has shape \(7,\), not one entry for each of 4 actions",
        ),
    ],
)
def test_a_mask_that_is_not_used_is_named_with_the_remedy(make_envs, message):
    stream = EnvStream(make_envs())
    with pytest.warns(UserWarning, match=message):
        stream.start(seed=0)
    assert stream.mask is None


class Array(Steps):
    action_masks: Any = np.ones(4)


class Property(Steps):
    @property
    def action_masks(self):
        raise AttributeError


def filtered() -> gymnasium.Env:
    return gymnasium.wrappers.FilterObservation(InObservation(), ["observation"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Array, "action_masks of Array is not used, since it is no method"),
        (Property, "action_masks of Property is not used, since it is no method"),
        (filtered, r"a wrapper removes the mask in observation\['action_mask'\] of InObservation"),
    ],
)
def test_a_mask_that_cannot_be_read_is_named_before_the_run(make, message, vectorization):
    with pytest.warns(UserWarning, match=message):
        assert not probe_env(EnvRecipe(make, vectorization)).has_masks


@pytest.mark.parametrize("is_method", [True, False])
def test_a_method_that_returns_none_and_an_attribute_none_are_no_masks(is_method):
    class Silent(Steps):
        def action_masks(self):
            return None

    class Absent(Steps):
        action_masks = None

    stream = EnvStream(EnvRecipe(Silent if is_method else Absent, "sync").make(1))
    stream.start(seed=0)
    assert stream.mask is None


def test_a_method_is_not_called_after_the_end():
    class Over(Steps):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.t == self.length, False, info

        def action_masks(self):
            assert self.t < self.length, "the game is over"
            return allowed(self.t)

    stream = EnvStream(EnvRecipe(Over, "sync").make(1))
    stream.start(seed=0)
    for _ in range(9):
        assert stream.mask is not None
        stream.send(stream.mask.argmax(1))
        stream.recv()


def test_an_invalid_result_is_one_line_without_a_traceback():
    class Bad(Steps):
        def action_masks(self):
            return np.ones(3)

    stream = EnvStream(EnvRecipe(Bad, "sync").make(1))
    with pytest.raises(EnvError, match=r"env 0, reset.*: action_masks\(\) has shape") as caught:
        stream.start(seed=0)
    assert caught.value.trace == ""
