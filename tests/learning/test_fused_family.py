"""The fused update of the family equals autograd, for every value, backup, head and noise."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdqn
from fastdqn.kernels import jit
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.fused_family import FusedFamilyPolicy, FusedFamilyStep, make_fused_policy
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import Draw, LaneNoise
from helpers.capture import learner_of
from helpers.cost import half_of_product, slow_but, slow_but_one_of
from helpers.fused import CPU, assert_equal_paths, make_batches
from helpers.fused_family import HEADS, MINATAR, VALUES, combinations, make_both, make_learner
from helpers.loop import small
from helpers.resumed_runs import (
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    nothing,
    stopping_at,
)

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
CASES = int(os.environ.get("FASTDQN_FUZZ_LEARNER", "40"))
ONE_OF_EACH = [
    ("mse", "munchausen"), ("huber", "double"), ("categorical", "double"), ("quantile", "max"),
    ("hl-gauss", "munchausen"), ("implicit-quantile", "double"),
]  # fmt: skip
ALONE = [pytest.param(parts) for parts in ONE_OF_EACH]  # one argument, not two


@pytest.mark.parametrize(
    ("parts", "head", "noisy", "masks"),
    slow_but_one_of(
        [
            (parts, *choice)
            for parts in combinations()
            for choice in half_of_product(HEADS, (False, True), (False, True))
        ],
        7,
    ),
)
def test_12_updates_end_where_autograd_ends(parts, head, noisy, masks):
    both = make_both(*parts, head=head, noisy=noisy)
    assert_equal_paths(*both, make_batches(12, masks=masks))


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "noisy"), [*zip(ONE_OF_EACH, [False, True] * 3, strict=True)])
def test_200_updates_end_where_autograd_ends(parts, noisy):
    both = make_both(*parts, noisy=noisy)
    assert_equal_paths(*both, make_batches(200, masks=True))


@pytest.mark.parametrize(
    ("parts", "size"), slow_but(itertools.product(ONE_OF_EACH, (1, 33, 128)), 2, 3, 7, 10, 12)
)
def test_any_batch_size(parts, size):
    both = make_both(*parts, size=size, noisy=True)
    assert_equal_paths(*both, make_batches(12, size=size))


@pytest.mark.parametrize(
    ("parts", "hidden"),
    slow_but(
        itertools.product(
            (ONE_OF_EACH[0], ONE_OF_EACH[2], ONE_OF_EACH[5]),
            ((), (24,), (17, 40), (8, 9, 10), (16, 8, 24, 5)),
        ),
        0, 8,
    ),
)  # fmt: skip
@pytest.mark.parametrize("noisy", [False, True])
def test_any_depth(parts, hidden, noisy):
    both = make_both(*parts, hidden=hidden, noisy=noisy)
    assert_equal_paths(*both, make_batches(15))


@pytest.mark.parametrize("parts", slow_but(ALONE, 1, 2))
def test_observations_are_normalized_and_clipped(parts):
    torch_learner, fused_learner = make_both(*parts, normalizes=True)
    assert_equal_paths(torch_learner, fused_learner, make_batches(10))
    for learner in (torch_learner, fused_learner):  # statistics change in place during a run
        for flat in (learner.online, learner.target):
            flat.module.statistics.obs_deviation.mul_(0.01)
    assert_equal_paths(torch_learner, fused_learner, make_batches(10))


@pytest.mark.parametrize("parts", slow_but(ALONE, 2))
@pytest.mark.parametrize("dtype", slow_but([np.uint8, np.float64, np.int64], 0))
def test_any_stored_observation(parts, dtype):
    assert_equal_paths(*make_both(*parts), make_batches(6, dtype=dtype))


@pytest.mark.parametrize("parts", ONE_OF_EACH)
def test_samples_of_weight_zero_do_not_matter(parts):
    batches = [batch._replace(weight=batch.weight * 0.0) for batch in make_batches(3)]
    both = make_both(*parts)
    before = both[1].online.weights.clone()
    assert_equal_paths(*both, batches)
    assert torch.equal(both[1].online.weights, before)


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        *itertools.product(("categorical", "hl-gauss"), (-10.0, -3.0, -2.3, 0.5, 4.0, 10.0)),
        ("categorical", -1e30), ("categorical", 1e30),
    ],
)  # fmt: skip
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_targets_at_and_beyond_the_ends_of_the_support(value, reward, discount):
    for batch in make_batches(2):
        batch.reward.fill_(reward)
        batch.discount.fill_(discount)
        assert_equal_paths(*make_both(value), [batch])


@pytest.mark.parametrize("parts", slow_but(ALONE, 0, 2))
def test_a_target_with_polyak_averaging(parts):
    assert_equal_paths(*make_both(*parts, tau=0.1, noisy=True), make_batches(20))


@pytest.mark.parametrize("parts", slow_but(ALONE, 2, 3))
def test_each_of_several_batches_in_a_call_has_its_own_noise(parts):
    torch_learner, fused_learner = make_both(*parts, noisy=True, together=4)
    one_by_one = make_learner(FusedFamilyStep, *parts, noisy=True)
    batches = list(make_batches(7))  # then the target network is updated
    for group in (batches[:4], batches[4:]):
        expected, priority = torch_learner.update(*group), fused_learner.update(*group)
        torch.testing.assert_close(priority, expected, rtol=1e-4, atol=1e-4)
        for batch in group:
            one_by_one.update(batch)
    assert torch.equal(fused_learner.online.weights, one_by_one.online.weights)


def test_more_batches_than_random_inputs_are_an_error():
    learner = make_learner(FusedFamilyStep, noisy=True, together=2)
    with pytest.raises(ValueError, match="got 3 batches at once"):
        learner.update(*make_batches(3))


@given(
    parts=st.sampled_from(combinations()),
    head=st.sampled_from(list(HEADS)),
    noisy=st.booleans(),
    masks=st.booleans(),
    normalizes=st.booleans(),
    hidden=st.lists(st.integers(1, 40), max_size=4).map(tuple),
    inputs=st.integers(1, 20) | st.tuples(*[st.integers(3, 6)] * 2, st.integers(1, 4)),
    actions=st.integers(1, 9),
    size=st.integers(1, 70),
    clip=st.sampled_from([None, 0.1]),
)
@settings(max_examples=CASES, deadline=None, derandomize=CASES == 40)
@pytest.mark.slow
def test_any_small_combination(
    parts, head, noisy, masks, normalizes, hidden, inputs, actions, size, clip
):
    both = make_both(
        *parts, head=head, noisy=noisy, normalizes=normalizes, hidden=hidden, inputs=inputs,
        actions=actions, size=size, clip=clip,
    )  # fmt: skip
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    assert_equal_paths(*both, make_batches(2, size=size, shape=shape, actions=actions, masks=masks))


@pytest.mark.slow
@pytest.mark.parametrize("backup", ["max", "double"])
@pytest.mark.parametrize(
    "value",
    [
        CategoricalValue(2, 0.0, 1.0), CategoricalValue(51, -10.0, 10.0), QuantileValue(1),
        QuantileValue(32), HLGaussValue(2, 0.0, 1.0), HLGaussValue(51, -10.0, 10.0),
    ],
    ids=["c2", "c51", "q1", "q32", "h2", "h51"],
)  # fmt: skip
def test_any_number_of_outputs_for_each_action(value, backup):
    assert_equal_paths(*make_both(value, backup, hidden=(64, 48)), make_batches(20))


# -- faults and memory


@pytest.mark.parametrize(
    ("parts", "where"),
    slow_but(
        itertools.product(ONE_OF_EACH, ("reward", "obs", "next_obs", "weights", "target")),
        0, 6, 12, 18, 24,
    ),
)  # fmt: skip
@pytest.mark.parametrize("clip", slow_but([None, 1.0], 1))
def test_a_nan_is_detected(parts, where, clip):
    learner = make_learner(FusedFamilyStep, *parts, clip=clip)
    batch, after = make_batches(2)
    if where in ("reward", "obs", "next_obs"):
        getattr(batch, where)[3] = torch.nan
        batch.discount[3] = 0.9
    else:
        flat = learner.online if where == "weights" else learner.target
        flat.weights.fill_(torch.nan)
    learner.update(batch)
    assert not np.isfinite(learner.loss_total())
    learner.update(after)
    assert learner.online.weights.isnan().any()


@pytest.mark.parametrize("parts", slow_but(ALONE, 2))
def test_memory_stays_in_place_and_warm_up_changes_nothing(parts):
    learner, fresh = (make_learner(FusedFamilyStep, *parts, noisy=True) for _ in range(2))
    batch, other = make_batches(2)
    learner.prepare(batch)
    for each in (learner, fresh):
        each.update(batch)
        each.update(other)
    assert torch.equal(learner.online.weights, fresh.online.weights)

    def places():
        return [t.data_ptr() for t in (*learner._tensors().values(), learner.update(batch))]

    assert places() == places()
    learner.online.check_views()


@pytest.mark.parametrize("inputs", [4, MINATAR])
def test_batches_of_another_size_follow(inputs):
    both = make_both("categorical", inputs=inputs)
    for size in (33, 100, 5):
        assert_equal_paths(*both, make_batches(3, size=size, shape=tuple(np.atleast_1d(inputs))))


def test_a_refilled_batch_is_read_again():
    staged, *others = make_batches(4, dtype=np.uint8)
    both = make_both("categorical")
    for batch in others:
        for tensor, fresh in zip(staged, batch, strict=True):
            if tensor is not None:
                tensor.copy_(fresh)
        assert_equal_paths(*both, [staged])


def test_checkpoints_of_both_learners_are_interchangeable():
    torch_learner, fused_learner = make_both("categorical", noisy=True)
    for batch in make_batches(10):
        fused_learner.update(batch)
    torch_learner.load_state(fused_learner.state())
    assert_equal_paths(torch_learner, fused_learner, make_batches(10))


# -- choice


@pytest.mark.parametrize(
    ("changes", "step", "policy"),
    [
        ({}, FusedStep, FusedPolicy),
        ({"double": False, "loss": "huber", "dueling": False}, FusedStep, FusedPolicy),
        ({"normalize_reward": True}, FusedStep, FusedPolicy),
        ({"munchausen": True}, FusedFamilyStep, FusedPolicy),
        ({"noisy": True}, FusedFamilyStep, FusedFamilyPolicy),
        ({"value": "categorical"}, FusedFamilyStep, FusedFamilyPolicy),
        ({"normalize_observation": True}, FusedFamilyStep, FusedFamilyPolicy),
    ],
)
def test_the_plain_case_keeps_its_kernel(changes, step, policy):
    learner = learner_of(learner="fused", **changes)
    assert type(learner._step) is step
    assert type(make_fused_policy(learner.online, learner.value)) is policy


def test_the_plain_kernel_and_the_family_agree():
    plain, family = (make_learner(step) for step in (FusedStep, FusedFamilyStep))
    assert_equal_paths(plain, family, make_batches(30, masks=True))


# -- policy


@pytest.mark.parametrize("value", [name for name in VALUES if name != "huber"])
@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("options", slow_but([{}, {"noisy": True}, {"normalizes": True}], 1))
@pytest.mark.parametrize("lanes", slow_but([1, 32, 45], 2))
def test_greedy_actions_are_those_of_torch(value, head, options, lanes):
    rng = np.random.default_rng(lanes)
    learner = make_learner(None, value, head=head, **options)
    policy, network = FusedFamilyPolicy(learner.online, learner.value), learner.online.module
    for _ in range(3):
        obs = rng.normal(size=(lanes, 4)).astype(np.float32)
        mask = rng.random((lanes, 3)) < 0.6
        mask[:, 1] |= ~mask.any(1)
        with torch.no_grad():
            expected = learner.value.expected(network(torch.from_numpy(obs), Draw())).numpy()
        assert policy(obs, None).tolist() == expected.argmax(1).tolist()
        assert policy(obs[:1], None).tolist() == expected[:1].argmax(1).tolist()
        allowed = np.where(mask, expected, -np.inf)
        assert policy(obs, mask).tolist() == allowed.argmax(1).tolist()
        learner.online.weights.neg_()


@pytest.mark.parametrize("value", ["mse", "implicit-quantile"])
@pytest.mark.parametrize("inputs", [4, MINATAR])
def test_a_policy_takes_more_observations_than_before(value, inputs):
    rng = np.random.default_rng(6)
    learner = make_learner(None, value, inputs=inputs)
    policy, network = FusedFamilyPolicy(learner.online, learner.value), learner.online.module
    for lanes in (1, 100, 33):
        obs = rng.normal(size=(lanes, *np.atleast_1d(inputs))).astype(np.float32)
        with torch.no_grad():
            expected = learner.value.expected(network(torch.from_numpy(obs), Draw())).numpy()
        assert policy(obs, None).tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("value", [name for name in VALUES if name != "huber"])
@pytest.mark.parametrize("hidden", [(24, 17), pytest.param((), marks=pytest.mark.slow)])
@pytest.mark.parametrize("lanes", slow_but([1, 32, 45], 2))
def test_noise_of_each_environment_gives_the_actions_of_torch(value, hidden, lanes):
    learner = make_learner(None, value, noisy=True, hidden=hidden)
    policy, network = FusedFamilyPolicy(learner.online, learner.value), learner.online.module
    noise = LaneNoise(noise_size(network), CPU, seed=4)
    rng, seen = np.random.default_rng(lanes), set()
    obs = rng.normal(size=(1, 4)).astype(np.float32).repeat(lanes, 0)
    for _ in range(4):
        draw = noise(lanes)
        with torch.no_grad():
            expected = learner.value.expected(network(torch.from_numpy(obs), draw)).numpy()
        assert policy(obs, None, draw).tolist() == expected.argmax(1).tolist()
        seen |= set(expected.argmax(1).tolist())
    assert lanes == 1 or len(seen) > 1  # equal observations: the noise decides


# -- runs

RAINBOW = {
    "learner": "fused", "value": "categorical", "noisy": True, "prioritized": True, "n_steps": 3,
    "v_min": 0.0, "v_max": 100.0,
}  # fmt: skip


def test_a_run_with_categorical_values_and_noise_resumes_exactly_and_repeats(tmp_path):
    config = small(tmp_path, total_timesteps=600, eval_frequency=250, **RAINBOW)
    assert config.problems() == []
    whole = fastdqn.train(config, run_dir=str(tmp_path / "whole"), on_step=nothing)
    again = fastdqn.train(config, run_dir=str(tmp_path / "again"), on_step=nothing)
    assert_same_run(whole.folder, again.folder)
    part = fastdqn.train(config, run_dir=str(tmp_path / "part"), on_step=stopping_at(333))
    assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, on_step=nothing)
    assert_same_run(whole.folder, part.folder)


@pytest.mark.slow
@pytest.mark.parametrize("backup", [{}, {"double": False}, {"munchausen": True}])
@pytest.mark.parametrize("value", ["scalar", "quantile", "hl-gauss", "implicit-quantile"])
def test_every_combination_of_options_trains(tmp_path, value, backup):
    config = small(
        tmp_path, total_timesteps=300, value=value, noisy=True, learner="fused", **backup,
        normalize_observation=True, v_min=0.0, v_max=100.0,
    )  # fmt: skip
    run = fastdqn.train(config, run_dir=str(tmp_path / "run"), on_step=nothing)
    assert run.summary["exit_reason"] == "budget spent"
