"""Action masks restrict every selected action and every bootstrap maximum."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

import fastdqn
from fastdqn.envs import EnvError, EnvRecipe, EnvStream
from fastdqn.learning.policy import Policy
from fastdqn.learning.value import ScalarValue, squared_error
from fastdqn.replay import Batch
from helpers.loop import small

MODES = list(AutoresetMode)


class Guarded(gymnasium.Env):
    """Four actions, of which the mask allows two that change each step; others are an error.

    Observes (lane, t); ends after `length` steps. silent  gives no mask at odd steps
    """

    observation_space = spaces.Box(0, 99, (2,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, lane=0, length=5, silent=False):
        self.lane, self.length, self.silent, self.t, self.mask = (
            lane,
            length,
            silent,
            0,
            np.zeros(4),
        )

    def _told(self):
        obs = np.array([self.lane, self.t], np.float32)
        if self.silent and self.t % 2:
            self.mask = np.ones(4, np.int8)
            return obs, {}
        self.mask = allowed(self.lane, self.t).astype(np.int8)
        return obs, {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._told()

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        assert self.mask[action], f"masked action {action} taken in lane {self.lane} at {self.t}"
        self.t += 1
        obs, info = self._told()
        return obs, 1.0, self.t == self.length, False, info


def allowed(lane, t) -> np.ndarray:
    mask = np.zeros(4, np.bool_)
    mask[[(lane + t) % 4, (lane + 2 * t + 1) % 4]] = True
    return mask


def guarded(mode, make_vec: Any = SyncVectorEnv, silent=False):
    makers = [lambda lane=lane: Guarded(lane, 2 + lane, silent) for lane in range(3)]
    return make_vec(makers, autoreset_mode=mode)


def assert_masks_fit(obs, masks, silent=False) -> None:
    for (lane, t), mask in zip(obs.astype(int).tolist(), masks, strict=True):
        everything = silent and t % 2
        np.testing.assert_array_equal(mask, np.ones(4) if everything else allowed(lane, t))


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("make_vec", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES)
def test_masks_belong_to_their_observations(mode, make_vec, silent):
    stream = EnvStream(guarded(mode, make_vec, silent))
    step = stream.start(seed=0)
    assert step.start_mask is not None
    assert_masks_fit(step.start_obs, step.start_mask, silent)
    for _ in range(12):
        assert stream.mask is not None
        assert_masks_fit(stream.obs, stream.mask, silent)
        stream.send(stream.mask.argmax(1))
        step = stream.recv()
        assert step.next_mask is not None
        assert step.start_mask is not None
        assert_masks_fit(step.next_obs, step.next_mask, silent)
        assert_masks_fit(step.start_obs, step.start_mask, silent)
    stream.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("overrides", [{}, {"n_steps": 3}, {"double": False, "dueling": False}])
def test_a_masked_action_is_never_taken_and_never_bootstrapped_from(tmp_path, mode, overrides):
    """Guarded raises where one is taken; the batches carry the mask of their own next_obs."""
    batches: list[tuple] = []

    def note(progress, batch: Batch, priority):
        batches.append((batch.next_obs.clone(), batch.next_mask.clone(), batch.discount.clone()))

    fastdqn.train(small(tmp_path, num_envs=3, **overrides), guarded(mode),
                  eval_envs=guarded(mode), on_update=note)  # fmt: skip
    assert len(batches) > 50
    for next_obs, next_mask, discount in batches:
        alive = discount > 0  # after termination the mask is not used
        assert_masks_fit(next_obs[alive].numpy(), next_mask[alive].numpy())


@pytest.mark.slow
def test_masked_taxi_never_takes_a_masked_action(tmp_path):
    taken: list[int] = []
    masks: dict[int, np.ndarray] = {}

    def check(progress, step):
        for lane, action in zip(step.lanes.tolist(), step.action, strict=True):
            if lane in masks:
                taken.append(int(masks[lane][action]))
        masks.update(zip(step.lanes.tolist(), step.next_mask.copy(), strict=True))
        masks.update(zip(step.start_lanes.tolist(), step.start_mask.copy(), strict=True))

    fastdqn.train(small(tmp_path, env_id="Taxi-v4", total_timesteps=2_000), on_step=check)
    assert len(taken) > 1_900
    assert min(taken) == 1


def policy_of(values) -> Policy:
    """A network that gives these values [A] whatever it sees."""

    class Constant(torch.nn.Module):
        def forward(self, obs, draw):
            return torch.tensor(values).expand(len(obs), -1)

    return Policy(
        Constant(), ScalarValue(squared_error), torch.device("cpu"), (2,), len(values), seed=3
    )


def test_greedy_takes_the_best_that_is_allowed():
    policy = policy_of([1.0, 4.0, 3.0, -100.0])
    obs = np.zeros((3, 2), np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], np.bool_)
    assert policy(obs, mask).tolist() == [1, 2, 3]


def test_exploration_is_uniform_over_allowed_actions():
    policy = policy_of([0.0] * 4)
    obs = np.zeros((3000, 2), np.float32)
    mask = np.tile(np.array([[0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], np.bool_), (1000, 1))
    action = policy.act(obs, 1.0, mask)
    for row in range(3):
        counts = np.bincount(action[row::3], minlength=4) / 1000
        expected = mask[row] / mask[row].sum()
        assert counts == pytest.approx(expected, abs=0.06)
        assert (counts[~mask[row]] == 0).all()


class Stuck(Guarded):
    """Gives another mask from its `since`-th step on."""

    def __init__(self, lane, mask, since):
        super().__init__(lane, 9)
        self.bad, self.since = mask, since

    def _told(self):
        obs, info = super()._told()
        return obs, {"action_mask": self.bad} if self.t >= self.since else info


def act(stream: EnvStream, calls: int) -> None:
    for _ in range(calls):
        assert stream.mask is not None
        stream.send(stream.mask.argmax(1))
        stream.recv()


def act_as_allowed(makers, calls: int) -> None:
    stream = EnvStream(SyncVectorEnv(makers))
    stream.start(seed=0)
    act(stream, calls)


def test_a_mask_that_allows_nothing_names_the_environment():
    makers = [lambda: Guarded(0, 9), lambda: Stuck(1, np.zeros(4, np.int8), since=2)]
    act_as_allowed(makers, 1)
    with pytest.raises(EnvError, match="env 1: the action mask allows no action"):
        act_as_allowed(makers, 2)


@pytest.mark.parametrize(
    "mask", [np.ones(3, np.int8), np.ones((4, 1), np.int8), [1, 1, 1], {"a": 1}]
)
def test_a_mask_of_another_size_is_rejected(mask):
    with pytest.raises(EnvError, match=r"(has shape .*: expected one entry|has no mask) for each"):
        act_as_allowed([lambda: Stuck(0, mask, since=0)] * 2, 0)


def test_nothing_is_stored_without_masks():
    stream = EnvStream(gymnasium.make_vec("CartPole-v1", 2))
    step = stream.start(seed=0)
    assert stream.mask is None
    assert step.start_mask is None


class NoLastMask(SyncVectorEnv):
    """SAME_STEP without final_info, so the last mask of an episode is missing."""

    def step(self, actions):
        told = super().step(actions)
        told[-1].pop("final_info", None)
        return told


def test_a_missing_last_mask_is_not_taken_from_the_next_episode():
    makers = [lambda: Guarded(0, 2)] * 2
    stream = EnvStream(NoLastMask(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    stream.start(seed=0)
    act(stream, 1)
    assert stream.mask is not None
    stream.send(stream.mask.argmax(1))
    step = stream.recv()
    assert step.terminated.all()
    assert step.next_mask is not None
    assert step.next_mask.all()
    assert not step.start_mask.all()  # pyright: ignore[reportOptionalMemberAccess]


class StuckAgain(Guarded):
    """Allows nothing at the beginning of its second episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        obs, info = super().reset(seed=seed)
        return obs, info if self.episodes == 1 else {"action_mask": np.zeros(4, np.int8)}


@pytest.mark.parametrize("mode", MODES)
def test_a_new_episode_without_allowed_actions_is_rejected_in_every_mode(mode):
    stream = EnvStream(SyncVectorEnv([lambda: StuckAgain(0, 2)], autoreset_mode=mode))
    stream.start(seed=0)
    with pytest.raises(EnvError, match=r"env 0: .* allows no action"):
        act(stream, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_finished_episode_may_allow_nothing(mode):
    class Over(Guarded):
        def _told(self):
            obs, info = super()._told()
            return obs, {"action_mask": np.zeros(4, np.int8)} if self.t == self.length else info

    stream = EnvStream(SyncVectorEnv([lambda: Over(0, 2)], autoreset_mode=mode))
    stream.start(seed=0)
    act(stream, 1)
    assert stream.mask is not None
    stream.send(stream.mask.argmax(1))
    step = stream.recv()
    assert step.terminated.all()
    assert step.next_mask is not None
    assert step.next_mask.all()  # where nothing is left to take, nothing is forbidden
    act(stream, 7)


# -- masks of other kinds


class Masked(gymnasium.Env):
    """Two actions; the masks of reset(), step() and the last step are arguments."""

    observation_space = spaces.Box(0.0, 99.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, at_reset: Any, at_step: Any, at_end: Any):
        self.masks, self.t = (at_reset, at_step, at_end), 0

    def _told(self, mask: Any):
        return np.full(1, self.t, np.float32), {} if mask is MISSING else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._told(self.masks[0])

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        obs, info = self._told(self.masks[1 + (self.t == 4)])
        return obs, 1.0, self.t == 4, False, info


MISSING = object()
ONE = np.array([True, False])


def masks_of(make_envs, count=10) -> np.ndarray:
    """The masks [T, R, A] of all steps when the first allowed action is taken."""
    stream = EnvStream(make_envs())
    stream.start(seed=0)
    assert stream.mask is not None
    masks = [stream.mask.copy()]
    for _ in range(count):
        stream.send(stream.mask.argmax(1))
        stream.recv()
        masks.append(stream.mask.copy())
    stream.close()
    return np.array(masks)


def made_here(vectorization, *masks):
    return lambda: EnvRecipe(lambda: Masked(*masks), vectorization).make(2)


def given(*masks):
    return lambda: SyncVectorEnv([lambda: Masked(*masks) for _ in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask", [[1, 0], (True, False), np.array([1.0, 0.0]), np.array([1, 0], np.int64), ONE]
)
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_booleans_and_0_and_1_are_masks_in_any_container(vectorization, mask):
    masks = masks_of(made_here(vectorization, mask, mask, mask))
    assert (masks == [True, False]).all()


@pytest.mark.parametrize("bad", [[0.0, -np.inf], [0.5, 1.0], [2, 1], ["a", "b"], [np.nan, 1]])
@pytest.mark.parametrize("make", [made_here, lambda _, *masks: given(*masks)])
def test_other_numbers_are_rejected_with_a_remedy_for_additive_masks(make, bad):
    bad = np.array(bad)
    with pytest.raises(EnvError, match=r"action_mask'\] (contains|has dtype)") as caught:
        masks_of(make("sync", ONE, bad, ONE))
    assert ("return mask == 0" in str(caught.value)) == (bad.dtype.kind == "f" and bad[1] < 0)


@pytest.mark.parametrize("at_end", [MISSING, None, [0, 0], [0.0, -np.inf]])
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_no_mask_is_needed_at_an_episode_end(vectorization, at_end):
    masks = masks_of(made_here(vectorization, ONE, ONE, at_end))
    assert (masks.sum(2) == [[2 if t % 5 == 4 else 1] * 2 for t in range(11)]).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_masks_from_resets_only_are_rejected_in_every_mode(mode, vectorization):
    recipe = EnvRecipe(lambda: Masked(ONE, MISSING, MISSING), vectorization)
    envs = recipe.make(2, autoreset_mode=mode)
    with pytest.raises(EnvError, match=r"returned by reset\(\) but not by step\(\)"):
        masks_of(lambda: envs, 30)
    envs.close()


@pytest.mark.parametrize("make", [made_here, lambda _, *masks: given(*masks)])
def test_masks_from_resets_only_or_steps_only_are_rejected(make):
    with pytest.raises(
        EnvError, match=r"returned by reset\(\) but not by step\(\)\. Return it from both"
    ):
        masks_of(make("sync", ONE, MISSING, MISSING))
    stream = EnvStream(make("sync", MISSING, ONE, ONE)())
    stream.start(seed=0)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(
        EnvError, match=r"returned by step\(\) but not by reset\(\): return it from both"
    ):
        stream.recv()


def test_one_step_episodes_may_have_masks_from_resets_only():
    class Bandit(Masked):
        def step(self, action):
            obs, _, _, _, info = super().step(action)
            return obs, 1.0, True, False, info

    masks = masks_of(lambda: SyncVectorEnv([lambda: Bandit(ONE, MISSING, MISSING)] * 1))
    assert (masks.sum((1, 2)) == [1, 2] * 5 + [1]).all()


def test_infos_in_a_list_of_dicts_are_read():
    listed = masks_of(lambda: DictInfoToList(given(ONE, ONE, ONE)()))
    assert (listed == [True, False]).all()


@pytest.mark.parametrize("mode", MODES)
def test_infos_in_a_list_of_dicts_are_read_in_every_mode(mode):
    for envs in (guarded(mode), DictInfoToList(guarded(mode))):
        stream = EnvStream(envs)
        stream.start(seed=0)
        for _ in range(12):
            assert stream.mask is not None
            stream.send(stream.mask.argmax(1))
            step = stream.recv()
            assert step.next_mask is not None
            assert_masks_fit(step.next_obs, step.next_mask)


@pytest.mark.parametrize("info", [None, "nothing", [1, 2], np.zeros(2)])
def test_infos_of_another_type_are_rejected(info):
    class Odd(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            *result, _ = super().step(actions)
            return *result, info

    stream = EnvStream(Odd(given(ONE, ONE, ONE)()))
    stream.start(seed=0)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=r"info is .*: expected a dict, or a list of one dict"):
        stream.recv()


def test_a_list_of_masks_with_none_in_it_allows_all_there():
    class Listed(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            *result, _ = super().step(actions)
            return *result, {"action_mask": [[1, 0], None]}

    masks = masks_of(lambda: Listed(given(ONE, ONE, ONE)()), 2)
    assert masks[1:].tolist() == [[[True, False], [True, True]]] * 2
