"""Without a target network the online network evaluates, by autograd and fused alike."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportIndexIssue=false
# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
from torch import nn

from fastdqn import Config
from fastdqn.builders.memory_estimate import network_bytes
from fastdqn.builders.network_size import NetworkSize
from fastdqn.config.conflicts import remarks
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import MaxBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import PlainHead
from fastdqn.learning.target_network import NoTarget
from fastdqn.replay import Batch
from helpers import fused_family
from helpers.cost import slow_but
from helpers.fused import assert_equal_paths, make_batches, make_both, make_learner
from helpers.fused_family import MINATAR
from helpers.loop import run_loop, small

CPU = torch.device("cpu")


@pytest.mark.parametrize("make_step", [None, FusedStep])
def test_two_updates_by_hand(make_step):
    """A table: Q[s, a] as the weights of a linear network on one-hot states. The second update's
    target is of what the first one left behind."""
    learner = make_learner(
        make_step, inputs=2, hidden=(), actions=2, head=PlainHead, backup=MaxBackup(),
        follower=NoTarget(), rate=0.5,
    )  # fmt: skip
    learner.online.weights.zero_()
    q = learner.online.module.head.values.weight.data  # [A, S]
    q[:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bias = learner.online.module.head.values.bias.data
    batch = Staging(
        Batch(
            obs=np.float32([[1, 0]]), action=np.array([0]), reward=np.float32([0.5]),
            discount=np.float32([0.9]), next_obs=np.float32([[1, 0]]), weight=np.float32([1]),
            index=np.arange(1),
        ),
        CPU,
    ).device  # fmt: skip
    error = 0.5 + 0.9 * 3.0 - 1.0
    assert learner.update(batch).item() == pytest.approx(abs(error))
    # Adam's first step is the rate, whatever the gradient: by weight and by bias.
    assert (q[0, 0].item(), bias[0].item()) == pytest.approx((1.5, 0.5), abs=1e-4)
    assert (q[1, 0].item(), bias[1].item()) == (3.0, 0.0)
    error = 0.5 + 0.9 * 3.0 - 2.0  # the other action is the best one still
    assert learner.update(batch).item() == pytest.approx(error, abs=1e-3)
    q[1, 0] = -9.0  # now the value of the action itself is bootstrapped from, as it is by now
    value = (q[0, 0] + bias[0]).item()
    assert learner.update(batch).item() == pytest.approx(abs(0.5 + 0.9 * value - value), abs=1e-3)


@pytest.mark.parametrize("masks", slow_but([False, True], 1))
def test_200_fused_updates_end_where_autograd_ends(masks):
    both = make_both(backup=MaxBackup(), follower=NoTarget(), clip=0.5)
    assert_equal_paths(*both, make_batches(200, masks=masks))


@pytest.mark.parametrize("value", ["huber", "categorical", "implicit-quantile"])
@pytest.mark.parametrize("inputs", [4, MINATAR])
def test_fused_updates_of_the_family_read_the_weights_as_they_are_now(value, inputs):
    both = fused_family.make_both(value, "max", tau=None, inputs=inputs)
    assert both[1].target.weights is both[1].online.weights
    shape = (inputs,) if inputs == 4 else inputs
    assert_equal_paths(*both, make_batches(20, shape=shape))


def test_no_target_has_no_copy_of_the_weights():
    learner = make_learner(None, follower=NoTarget())
    with_copy = make_learner(None)
    assert learner.target.weights is learner.online.weights
    copied = with_copy.target.weights.nbytes + with_copy.target.buffers.nbytes
    assert with_copy.nbytes - learner.nbytes == copied
    assert not any(name.startswith("target") for name in learner.state())
    size = NetworkSize(1_000)
    sizes = [network_bytes(Config(target_network=kept), size) for kept in (True, False)]
    assert sizes[0] - sizes[1] == 4 * size.weights


def test_no_target_evaluates_in_eval_mode():
    online = FlatParameters(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), CPU)
    target = NoTarget().target_of(online)
    assert online.module.training
    assert not target.module.training
    online.weights.fill_(3.0)
    assert target.module[0].weight.unique().tolist() == [3.0]
    assert not NoTarget().follow(1, online, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"noisy": True, "value": "implicit-quantile"}, {"normalize_observation": True}]
)
def test_a_run_takes_max_for_double_and_evaluates_by_itself(tmp_path, changes):
    session, _ = run_loop(small(tmp_path, target_network=False, **changes))
    learner = session.run.learner
    assert type(learner.backup) is MaxBackup
    assert type(learner.target_update) is NoTarget
    assert learner.target.weights is learner.online.weights
    assert learner.online.weights.isfinite().all()


@pytest.mark.slow
def test_munchausen_uses_the_online_policy(tmp_path):
    session, _ = run_loop(small(tmp_path, target_network=False, munchausen=True))
    assert type(session.run.learner.backup) is MunchausenBackup


def test_options_without_effect_are_reported():
    (line,) = remarks(Config(target_network=False))
    assert line == (
        "without a target network the online network is bootstrapped from: "
        "target_network_frequency and tau have no effect, nor has double"
    )
    assert "double" not in remarks(Config(target_network=False, double=False))[0]
    assert Config(target_network=False, replay=False).beyond_fused() == []
