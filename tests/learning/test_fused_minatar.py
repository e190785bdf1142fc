"""The fused update of MinAtar's network equals autograd."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import fastdqn
from fastdqn.kernels import jit
from fastdqn.learning.fused_family import FusedFamilyPolicy, FusedFamilyStep
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.random_inputs import Draw, LaneNoise
from helpers.cost import half_of_product, slow_but, slow_but_one_of
from helpers.fused import CPU, assert_equal_paths, make_batches
from helpers.fused_family import MINATAR, STREAMS, VALUES, combinations, make_both, make_learner
from helpers.loop import small
from helpers.resumed_runs import (
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    nothing,
)

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
ONE_OF_EACH = [
    ("huber", "double"), ("mse", "munchausen"), ("categorical", "double"), ("quantile", "max"),
    ("hl-gauss", "munchausen"), ("implicit-quantile", "double"),
]  # fmt: skip


def both_of(*parts, inputs=MINATAR, **options):
    return make_both(*parts, inputs=inputs, **options)


def frames(count, shape=MINATAR, dtype=np.bool_, **options):
    return make_batches(count, shape=shape, dtype=dtype, **options)


@pytest.mark.parametrize(
    ("parts", "head", "noisy", "masks"),
    slow_but_one_of(
        [
            (parts, *choice)
            for parts in combinations()
            for choice in half_of_product(STREAMS, (False, True), (False, True))
        ],
        13,
    ),
)
def test_12_updates_end_where_autograd_ends(parts, head, noisy, masks):
    assert_equal_paths(*both_of(*parts, head=head, noisy=noisy), frames(12, masks=masks))


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "noisy"), [*zip(ONE_OF_EACH, [False, True] * 3, strict=True)])
def test_200_updates_end_where_autograd_ends(parts, noisy):
    assert_equal_paths(*both_of(*parts, noisy=noisy), frames(200, masks=True))


@pytest.mark.parametrize(
    ("shape", "hidden", "size"),
    [
        ((3, 3, 1), (), 1), ((3, 4, 3), (33,), 33), ((10, 10, 4), (128,), 32),
        ((7, 5, 4), (16, 40), 70), ((6, 6, 10), (), 65),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", STREAMS)
@pytest.mark.parametrize("noisy", slow_but([False, True], 0))
def test_any_shape_and_batch_size(shape, hidden, size, head, noisy):
    both = both_of("huber", inputs=shape, hidden=hidden, size=size, head=head, noisy=noisy)
    assert_equal_paths(*both, frames(9, shape, size=size))


@pytest.mark.parametrize("value", ["huber", "implicit-quantile"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32, np.float64])
def test_any_stored_observation(value, dtype):
    assert_equal_paths(*both_of(value), frames(6, dtype=dtype))


def test_bits_do_not_depend_on_the_type_of_stored_observations():
    ends = []
    for dtype in (np.bool_, np.uint8, np.float32):
        learner = make_learner(FusedFamilyStep, inputs=MINATAR)
        for batch in frames(3):
            obs, next_obs = (
                torch.from_numpy(each.numpy().astype(dtype)) for each in (batch.obs, batch.next_obs)
            )
            learner.update(batch._replace(obs=obs, next_obs=next_obs))
        ends.append(learner.online.weights)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("value", ["huber", "implicit-quantile"])
def test_observations_are_normalized_and_clipped(value):
    assert_equal_paths(*both_of(value, normalizes=True), frames(10))


@pytest.mark.parametrize("where", ["reward", "weights", "target"])
@pytest.mark.parametrize("value", ["huber", "implicit-quantile"])
def test_a_nan_is_detected(value, where):
    learner = make_learner(FusedFamilyStep, value, inputs=MINATAR)
    batch, after = frames(2)
    if where == "reward":
        batch.reward[3] = torch.nan
    else:
        flat = learner.online if where == "weights" else learner.target
        flat.weights.fill_(torch.nan)
        batch.discount[3] = 0.9
    learner.update(batch)
    assert not np.isfinite(learner.loss_total())
    learner.update(after)
    assert learner.online.weights.isnan().any()


@pytest.mark.parametrize("value", [name for name in VALUES if name != "huber"])
@pytest.mark.parametrize("head", STREAMS)
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("lanes", slow_but([1, 32, 45], 2))
def test_greedy_actions_are_those_of_torch(value, head, noisy, lanes):
    rng = np.random.default_rng(lanes)
    learner = make_learner(None, value, head=head, noisy=noisy, inputs=MINATAR)
    policy, network = FusedFamilyPolicy(learner.online, learner.value), learner.online.module
    noise = LaneNoise(noise_size(network), CPU, seed=4)
    for _ in range(3):
        obs = rng.random((lanes, *MINATAR)) < 0.5
        mask = rng.random((lanes, 3)) < 0.6
        mask[:, 1] |= ~mask.any(1)
        draw = noise(lanes) if noisy else Draw()
        with torch.no_grad():
            expected = learner.value.expected(network(torch.from_numpy(obs), draw)).numpy()
        assert policy(obs, None, draw).tolist() == expected.argmax(1).tolist()
        allowed = np.where(mask, expected, -np.inf)
        assert policy(obs, mask, draw).tolist() == allowed.argmax(1).tolist()
        learner.online.weights.neg_()


# -- runs


class Frames(gymnasium.Env):
    """Random frames of MinAtar's shape; episodes of 9 steps."""

    observation_space = spaces.Box(0, 1, (10, 10, 2), np.bool_)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._frame(), {}

    def step(self, action):
        self.t += 1
        return self._frame(), float(action), self.t == 9, False, {}

    def _frame(self):
        return self.np_random.random((10, 10, 2)) < 0.3


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"noisy": True, "prioritized": True}, marks=pytest.mark.slow)]
)
def test_a_run_is_fused_and_repeats(tmp_path, options):
    config = small(tmp_path, total_timesteps=300, eval_frequency=150, **options)
    whole, again = (
        fastdqn.train(config, Frames, run_dir=str(tmp_path / name), on_step=nothing)
        for name in ("whole", "again")
    )
    assert json.loads((whole.folder / "config.json").read_text())["learner"] == "fused"
    assert_same_run(whole.folder, again.folder)


def test_checkpoints_of_both_learners_are_interchangeable():
    torch_learner, fused_learner = both_of("categorical", noisy=True)
    for batch in frames(10):
        fused_learner.update(batch)
    torch_learner.load_state(fused_learner.state())
    assert_equal_paths(torch_learner, fused_learner, frames(10))
