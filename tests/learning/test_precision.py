"""Precision and memory format of the torso, and denormal numbers."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

import pytest
import torch

from fastdqn.builders import agent, devices
from fastdqn.learning.fused_family import FusedFamilyStep
from fastdqn.learning.fused_learner import FusedStep
from helpers.capture import FACTS, PICTURES, batches_of, config_of
from helpers.fused import make_batches, make_learner


def test_bfloat16_is_used_by_the_torso_only():
    config = config_of(hidden_sizes=(64, 64))
    online, _ = agent.make_online(config, FACTS)
    batch = batches_of(1)[0]
    exact = online.module(batch.obs)
    seen = []
    online.module.torso.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    online.module.compute_in(torch.bfloat16, torch.preserve_format)
    rounded = online.module(batch.obs)
    assert seen == [torch.bfloat16]
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_images_are_channels_last_on_request():
    config = config_of(hidden_sizes=(8,)).replace(torso="nature")
    online, _ = agent.make_online(config, PICTURES)
    obs = batches_of(1, facts=PICTURES)[0].obs
    before, seen = online.module(obs), []
    online.module.torso.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    online.module.compute_in(None, torch.channels_last)
    torch.testing.assert_close(online.module(obs), before)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("torso", "shape", "last"),
    [
        ("nature", (4, 36, 36), True),
        ("data-efficient", (4, 36, 36), True),
        ("minatar", (10, 10, 4), False),
        ("mlp", (4, 36, 36), False),
    ],
)
def test_on_a_device_every_image_torso_is_channels_last(torso, shape, last):
    config = config_of(hidden_sizes=(8,)).replace(torso=torso)
    network = agent.make_online(config, PICTURES._replace(obs_shape=shape))[0].module
    devices.place(config.replace(device="cuda", precision="tf32"), network)
    assert (network._layout == torch.channels_last) == last


@pytest.mark.parametrize("make_step", [None, FusedStep, FusedFamilyStep])
@pytest.mark.parametrize("users_mode", [False, True])
def test_an_update_counts_denormal_moments_as_zero(make_step, users_mode):
    """The mean of a dead unit's gradients would otherwise stay denormal, which is slow."""
    learner = make_learner(make_step)
    (batch,) = make_batches(1)
    batch.weight.zero_()  # no gradient
    learner.optimizer.exp_avg.fill_(1e-39)
    torch.set_flush_denormal(users_mode)
    try:
        learner.update(batch)
        after = torch.tensor(1e-39) * 0.9
    finally:
        torch.set_flush_denormal(False)
    assert learner.optimizer.exp_avg.view(torch.int32).count_nonzero() == 0
    assert (after.view(torch.int32) == 0) == users_mode  # the mode is that of before


def test_an_update_that_raises_leaves_the_mode_of_denormal_numbers_as_it_was():
    learner = make_learner(FusedStep)
    (batch,) = make_batches(1)
    with pytest.raises(AttributeError):
        learner.update(batch._replace(obs=None))
    assert (torch.tensor(1e-39) * 0.9).view(torch.int32) != 0
