"""Precision and memory format of the torso."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

import pytest
import torch

from fastdqn import Config
from fastdqn.builders import agent, devices
from helpers.capture import FACTS, PICTURES, batches_of, config_of


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


def test_tf32_is_allowed_within_and_as_before_afterwards():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    for precision, allowed in (("tf32", True), ("float32", False), ("bf16", True)):
        with devices.arithmetic(Config(device="cuda", precision=precision)):
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before
