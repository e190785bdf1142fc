"""The fused update equals autograd for every supported option."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from fractions import Fraction

import numpy as np
import pytest
import torch

from fastdqn.builders.auto_options import choose_learner
from fastdqn.config.schema import Config
from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import (
    MLP,
    DuelingHead,
    Outputs,
    PlainHead,
    QNetwork,
    Statistics,
)
from fastdqn.learning.noisy import NoisyLayers
from fastdqn.learning.random_inputs import Draws
from fastdqn.learning.target_network import HardCopy, PolyakAverage
from fastdqn.learning.value import ScalarValue, huber, squared_error
from helpers.cost import half_of_product, slow_but
from helpers.fused import (
    CPU,
    assert_equal_paths,
    make_batches,
    make_both,
    make_learner,
    make_online,
)


@pytest.mark.parametrize(
    ("head", "backup", "loss", "clip", "masks"),
    slow_but(
        half_of_product(
            (PlainHead, DuelingHead), (MaxBackup(), DoubleBackup()), (squared_error, huber),
            (None, 0.5), (False, True),
        ),
        15,
    ),
)  # fmt: skip
def test_200_updates_end_where_autograd_ends(head, backup, loss, clip, masks):
    both = make_both(head=head, backup=backup, loss=loss, clip=clip)
    assert_equal_paths(*both, make_batches(200, masks=masks))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (1,), (33,), (64, 64), (120, 84), (17, 40, 9)])
@pytest.mark.parametrize("head", [PlainHead, DuelingHead])
def test_any_depth_and_width(hidden, head):
    both = make_both(hidden=hidden, head=head, inputs=5, actions=2, clip=10.0)
    assert_equal_paths(*both, make_batches(80, shape=(5,), actions=2))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 31, 32, 33, 96])
@pytest.mark.parametrize(("inputs", "actions"), [(1, 1), (40, 18), (3, 70)])
def test_any_batch_and_any_spaces(size, inputs, actions):
    both = make_both(inputs=inputs, actions=actions)
    batches = make_batches(50, size=size, shape=(inputs,), actions=actions)
    assert_equal_paths(*both, batches)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float32, np.int64, np.bool_])
def test_any_stored_observation_scaled(dtype):
    both = make_both(inputs=12, scale=1 / 255)
    assert_equal_paths(*both, make_batches(50, shape=(3, 4), dtype=dtype))


@pytest.mark.parametrize("every", slow_but([Fraction(3), Fraction(1, 4), Fraction(2, 3)], 2))
def test_a_target_with_polyak_averaging(every):
    assert_equal_paths(*make_both(follower=PolyakAverage(every, 0.1)), make_batches(100))


def test_a_refilled_batch_is_read_again():
    """The loop fills one batch in place: converted observations must not be kept."""
    staged, *others = make_batches(5, dtype=np.uint8)
    torch_learner, fused_learner = make_both(scale=1 / 255)
    for batch in others:
        for tensor, fresh in zip(staged, batch, strict=True):
            if tensor is not None:
                tensor.copy_(fresh)
        assert_equal_paths(torch_learner, fused_learner, [staged])


def test_strided_observations_are_read_in_place():
    both = make_both()
    for batch in make_batches(5):
        apart = batch.obs.repeat(1, 2)[:, ::2]
        batch = batch._replace(obs=apart)
        assert_equal_paths(*both, [batch])
        apart += 1.0
        assert_equal_paths(*both, [batch])


def test_checkpoints_of_both_learners_are_interchangeable():
    first, second = make_both(clip=1.0)
    for batch in make_batches(20):
        first.update(batch)
    other_torch, other_fused = make_both(clip=1.0, rate=0.5)
    other_fused.load_state(first.state())
    second.load_state(first.state())
    other_torch.load_state(second.state())
    assert_equal_paths(other_torch, other_fused, make_batches(50))


@pytest.mark.slow
def test_rate_and_weights_changed_in_place_are_used():
    both = make_both()
    batches = list(make_batches(100))
    assert_equal_paths(*both, batches[:50])
    for learner in both:
        learner.optimizer.learning_rate.fill_(1e-4)
        learner.online.weights.mul_(0.5)
        learner.target.weights.add_(0.01)
    assert_equal_paths(*both, batches[50:])


def test_fused_warm_up_changes_nothing():
    prepared, fresh = make_learner(FusedStep), make_learner(FusedStep)
    (batch,) = make_batches(1)
    prepared.prepare(batch)
    for learner in (prepared, fresh):
        learner.update(batch)
    assert torch.equal(prepared.online.weights, fresh.online.weights)


def test_equal_seeds_give_equal_bits_whatever_the_threads():
    def weights(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        learner = make_learner(FusedStep, clip=1.0)
        for batch in make_batches(30):
            learner.update(batch)
        torch.set_num_threads(before)
        return learner.online.weights

    assert torch.equal(weights(1), weights(1))
    assert torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("loss", [squared_error, huber])
@pytest.mark.parametrize("where", ["reward", "obs", "weights", "target", "bias"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_nan_is_detected(where, loss, clip):
    learner = make_learner(FusedStep, loss=loss, clip=clip)
    batch, after = make_batches(2)
    if where in ("reward", "obs"):
        getattr(batch, where)[3] = torch.nan
    elif where == "bias":
        learner.online.module.head.streams.bias[0].data.fill_(torch.nan)
    else:
        flat = learner.online if where == "weights" else learner.target
        flat.weights.fill_(torch.nan)
    learner.update(batch)
    assert not np.isfinite(learner.loss_total())
    learner.update(after)
    assert learner.online.weights.isnan().any()


def test_memory_stays_where_it_is():
    learner = make_learner(FusedStep)
    (batch,) = make_batches(1)
    learner.update(batch)

    def places():
        return [t.data_ptr() for t in (*learner._tensors().values(), learner.update(batch))]

    assert places() == places()
    learner.online.check_views()


def test_the_policy_shares_the_weights():
    learner = make_learner(FusedStep)
    acting = learner.online.eval_alias()
    (batch,) = make_batches(1)
    before = acting(batch.obs)
    learner.update(batch)
    assert not torch.equal(acting(batch.obs), before)
    assert torch.equal(acting(batch.obs), learner.online.module(batch.obs))


def test_unsupported_learners_are_rejected_by_name():
    with pytest.raises(ValueError, match="MunchausenBackup"):
        make_learner(FusedStep, backup=MunchausenBackup(0.9, 0.03, -1.0))
    with pytest.raises(ValueError, match="noisy"):
        make_learner(FusedStep, head=lambda f, o: PlainHead(f, o, NoisyLayers(0.5)))
    statistics = Statistics((4,), of_obs=True, of_returns=False)
    network = QNetwork(MLP(4, ()), PlainHead(4, Outputs(3)), statistics=statistics)
    with pytest.raises(ValueError, match="normalization"):
        FusedStep(_with(network))
    with pytest.raises(ValueError, match="torso"):
        FusedStep(_with(QNetwork(torch.nn.Flatten(), PlainHead(4, Outputs(3)))))


def _with(network) -> Learner:
    online = FlatParameters(network, CPU)
    return Learner(
        online, ScalarValue(huber), MaxBackup(), Draws(1, 0, (0, 0, 0, 0), CPU, seed=0),
        FusedAdam(online.weights, online.gradient, 0.1), HardCopy(Fraction(1)), None,
    )  # fmt: skip


# -- choice


@pytest.mark.parametrize(
    ("changes", "weights", "own_torso", "chosen", "why"),
    [
        ({}, 1000, False, "fused", "compiled kernels"),
        ({"learner": "torch"}, 1000, False, "torch", "as configured"),
        ({"noisy": True, "value": "quantile"}, 1000, False, "fused", "compiled kernels"),
        ({"munchausen": True, "value": "hl-gauss"}, 1000, False, "fused", "compiled kernels"),
        ({"normalize_observation": True}, 1000, False, "fused", "compiled kernels"),
        ({"device": "cuda"}, 1000, False, "torch", "device cuda"),
        ({"capture": "compile"}, 1000, False, "torch", "capture compile"),
        ({"hidden_activation": "tanh"}, 1000, False, "torch", "support hidden_activation tanh"),
        ({"optimizer": "adamw"}, 1000, False, "torch", "support optimizer adamw"),
        ({"optimizer": "my_module:MyAdam"}, 1000, False, "torch", "optimizer my_module:MyAdam"),
        ({"value": "my_module:MyValue"}, 1000, False, "torch", "support value my_module:MyValue"),
        ({"backup": "my_module:MyBackup"}, 1000, False, "torch", "backup my_module:MyBackup"),
        ({"loss": "my_module:my_loss"}, 1000, False, "torch", "support loss my_module:my_loss"),
        ({"torso": "my_module:MyTorso"}, 1000, False, "torch", "support torso my_module:MyTorso"),
        ({"dueling_gradient_scale": 0.5}, 1000, False, "torch", "dueling_gradient_scale 0.5"),
        (
            {"dueling_gradient_scale": 0.5, "dueling": False},
            1000,
            False,
            "fused",
            "compiled kernels",
        ),
        ({}, 1000, True, "torch", "torso"),
        ({}, 10_000_000, False, "torch", "large"),
    ],
)
def test_the_choice_is_a_function_of_options_and_network(changes, weights, own_torso, chosen, why):
    config = Config().replace(**{"device": "cpu"} | changes)
    name, reason = choose_learner(config, weights, own_torso)
    assert name == chosen
    assert why in reason


def test_requesting_an_unsupported_fused_update_is_one_line():
    (line,) = Config(learner="fused", optimizer="adamw", precision="tf32").problems()
    assert line.startswith(
        "learner is fused, which does not support optimizer adamw or precision tf32"
    )
    assert Config(learner="fused").problems() == []
    assert Config(normalize_reward=True, prioritized=True).beyond_fused() == []


@pytest.mark.parametrize("head", [PlainHead, DuelingHead])
@pytest.mark.parametrize("lanes", [1, 32, 45])
def test_the_best_actions_are_those_of_torch_after_every_change_of_the_weights(head, lanes):
    rng = np.random.default_rng(lanes)
    online = make_online(head=head)
    choose = FusedPolicy(online)
    for _ in range(3):
        obs = rng.normal(size=(lanes, 4)).astype(np.float32)
        mask = rng.random((lanes, 3)) < 0.6
        mask[:, 1] |= ~mask.any(1)
        with torch.no_grad():
            values = online.module(torch.from_numpy(obs)).numpy()
        assert choose(obs, None).tolist() == values.argmax(1).tolist()
        assert choose(obs, mask).tolist() == np.where(mask, values, -np.inf).argmax(1).tolist()
        online.weights.neg_()
