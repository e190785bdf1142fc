"""Convolutional torsos: published shapes and initialization, automatic choice, size."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fastdqn import PRESETS, Config
from fastdqn.bench.learner_speed import learner_on
from fastdqn.bench.synthetic_data import fill_batch
from fastdqn.builders import agent
from fastdqn.builders.auto_options import choose_learner
from fastdqn.builders.memory_estimate import network_bytes
from fastdqn.builders.network_size import measure_network
from fastdqn.builders.parts import UserParts
from fastdqn.builders.preflight import prepare
from fastdqn.builders.torso_kinds import choose, problem, settle
from fastdqn.checkpoints.network_weights import WeightsError, save_weights
from fastdqn.envs import EnvFacts
from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.cnn_torsos import DATA_EFFICIENT, NATURE, MinAtarCNN, PictureCNN
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.networks import Outputs, StreamsHead
from fastdqn.replay.batch import new_batch
from helpers.switches import SWITCHES

ATARI = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0)
MINATAR = EnvFacts((10, 10, 4), np.dtype(np.bool_), 1.0, 6, 0)
FACTS = {"nature": ATARI, "data-efficient": ATARI, "minatar": MINATAR}
CPU = torch.device("cpu")


def nature(obs_shape) -> PictureCNN:
    return PictureCNN(obs_shape, NATURE)


def data_efficient(obs_shape) -> PictureCNN:
    return PictureCNN(obs_shape, DATA_EFFICIENT)


def settled(facts=MINATAR, **options) -> Config:
    asked = {"device": "cpu", "learner": "torch", "batch_size": 4, "dueling": False} | options
    config = Config().replace(**asked)
    return config.replace(**settle(config, facts))


def batch_for(facts, size=4):
    staging = Staging(new_batch(size, facts.obs_shape, facts.obs_dtype), CPU)
    fill_batch(staging.host, facts)
    return staging.device


# -- shapes, counts and starts, by hand


@pytest.mark.parametrize(
    ("facts", "dueling", "weights"),
    [
        # 4*64*32+32, 32*16*64+64, 64*9*64+64, 3136*512+512: 1,684,128; and 512*6+6
        (ATARI, False, 1_684_128 + 3_078),
        (ATARI, True, 77_984 + 2 * 1_606_144 + 513 + 3_078),
        # 36*16+16, 1024*128+128, 128*6+6
        (MINATAR, False, 592 + 131_200 + 774),
        (MINATAR, True, 592 + 2 * 131_200 + 129 + 774),
    ],
)
def test_networks_are_of_the_published_size(facts, dueling, weights):
    online, _ = agent.make_online(settled(facts, dueling=dueling), facts)
    assert sum(p.numel() for p in online.module.parameters()) == weights


def test_features_are_of_the_published_shape():
    obs = torch.zeros(2, 4, 84, 84)
    assert nature((4, 84, 84))(obs).shape == (2, 64 * 7 * 7)
    assert data_efficient((4, 84, 84))(obs).shape == (2, 64 * 3 * 3)
    assert MinAtarCNN((10, 10, 7))(torch.zeros(2, 10, 10, 7)).shape == (2, 16 * 8 * 8)


@pytest.mark.parametrize(
    ("make", "fans"),
    [
        (lambda: nature((4, 84, 84)), [256, 512, 576]),
        (lambda: data_efficient((4, 84, 84)), [100, 800]),
        (lambda: MinAtarCNN((10, 10, 4)), [36]),
    ],
)
def test_weights_start_uniform_within_the_root_of_their_inputs(make, fans):
    weights = [p for p in make().parameters() if p.ndim > 1]
    for weight, fan_in in zip(weights, fans, strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


# -- the same as plain torch


def plain_pictures(torso, obs):
    strides = (4, 2, 1) if len(torso.layers) == 3 else (5, 5)
    for layer, stride in zip(torso.layers, strides, strict=True):
        weight = layer.weight.permute(0, 3, 1, 2).contiguous()
        obs = functional.relu(functional.conv2d(obs, weight, layer.bias, stride))
    return obs.permute(0, 2, 3, 1).flatten(1)


def plain_minatar(torso, obs):
    weight = torso.kernels.weight.view(16, 3, 3, -1).permute(0, 3, 1, 2).contiguous()
    x = functional.conv2d(obs.permute(0, 3, 1, 2).contiguous(), weight, torso.kernels.bias)
    return functional.relu(x).permute(0, 2, 3, 1).flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "plain", "shape"),
    [
        (nature, plain_pictures, (4, 84, 84)),
        (nature, plain_pictures, (1, 47, 60)),
        (data_efficient, plain_pictures, (4, 84, 84)),
        (MinAtarCNN, plain_minatar, (10, 10, 4)),
        (MinAtarCNN, plain_minatar, (5, 9, 2)),
    ],
)
def test_features_and_gradients_are_those_of_contiguous_convolutions(make, plain, shape):
    torch.manual_seed(0)
    torso, obs = make(shape), torch.rand(3, *shape)
    gradients = []
    for features in (torso(obs), plain(torso, obs)):
        along = torch.linspace(-1, 1, features.numel()).view(features.shape)
        gradients.append((features, *torch.autograd.grad(features, torso.parameters(), along)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_weights_stay_channels_last_views_of_the_flat_tensor_through_updates_and_a_load():
    _, learner, batch = learner_for("nature")
    before = learner.online.weights.clone()
    state = learner.state()
    for _ in range(2):
        learner.update(batch)
    learner.load_state(state)
    learner.online.check_views()
    assert torch.equal(learner.online.weights, before)
    weight = learner.online.module.torso.layers[1].weight.permute(0, 3, 1, 2)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def learner_for(torso, **options):
    facts = FACTS[torso]
    config = settled(facts, **{"torso": torso} | options)
    online, _ = agent.make_online(config, facts)
    learner = agent.make_learner(config, online)
    return learner.update, learner, batch_for(facts)


@pytest.mark.slow
def test_no_gradient_is_computed_for_the_observation():
    _, learner, batch = learner_for("nature")
    asked = []
    for layer in learner.online.module.torso.layers:
        layer.register_forward_hook(lambda _, given, __: asked.append(given[0].requires_grad))
    learner.update(batch)
    assert asked[:3] == [False, True, True]


# -- heads behind them


@pytest.mark.parametrize("per_action", [None, 5])
def test_streams_have_hidden_layers_of_their_own_and_advantages_of_mean_zero(per_action):
    head = StreamsHead(7, Outputs(3, per_action), hidden_sizes=(6,))
    features = torch.rand(4, 7)
    q = head(features)
    assert q.shape == ((4, 3) if per_action is None else (4, per_action, 3))
    torch.testing.assert_close(q.mean(-1, keepdim=True), head.value(features))
    assert head.value.hidden[0].weight is not head.advantage.hidden[0].weight
    best = head.advantage(features).argmax(-1)
    assert torch.equal(q.argmax(-1), best)


@pytest.mark.slow
@pytest.mark.parametrize("torso", ["nature", "minatar"])
@pytest.mark.parametrize("name", [name for name in SWITCHES if name not in ("ladder", "decay")])
def test_every_technique_takes_20_updates_on_pictures(torso, name):
    switched = {k: v for k, v in SWITCHES[name].items() if not k.startswith("normalize")}
    _, learner, batch = learner_for(torso, hidden_sizes=(16,), **switched)
    before = learner.online.weights.clone()
    for _ in range(19):
        learner.update(batch)
    assert learner.update(batch).isfinite().all()
    assert learner.online.weights.isfinite().all()
    assert not torch.equal(learner.online.weights, before)
    learner.online.check_views()


@pytest.mark.slow
def test_the_loss_falls_on_a_batch_that_stays():
    _, learner, batch = learner_for("minatar", gamma=0.0)
    first = learner.update(batch).mean().item()
    for _ in range(200):
        learner.update(batch)
    assert learner.update(batch).mean().item() < first / 2


# -- the choice, and what it says


@pytest.mark.parametrize(
    ("shape", "dtype", "torso"),
    [
        ((4, 84, 84), np.uint8, "nature"),
        ((1, 84, 84), np.uint8, "nature"),
        ((4, 84, 84), np.float32, "mlp"),
        ((4, 84, 84), np.bool_, "mlp"),
        ((84, 84, 4), np.uint8, "mlp"),
        ((84, 84), np.uint8, "mlp"),
        ((10, 10, 4), np.bool_, "minatar"),
        ((10, 10, 10), np.uint8, "minatar"),
        ((10, 10), np.bool_, "mlp"),
        ((10, 10, 4), np.float32, "mlp"),
        ((4,), np.float32, "mlp"),
    ],
)
def test_auto_is_a_function_of_shape_and_type(shape, dtype, torso):
    assert choose(shape, np.dtype(dtype)) == torso
    facts = EnvFacts(shape, np.dtype(dtype), 1.0, 3, 0)
    chosen = settle(Config(), facts)
    sizes = {"nature": (512,), "minatar": (128,)}.get(torso, (120, 84))
    assert chosen == {"torso": torso, "hidden_sizes": sizes}
    assert settle(Config().replace(**chosen), facts) == chosen
    assert settle(Config(torso="mlp", hidden_sizes=(3,)), facts)["hidden_sizes"] == (3,)


@pytest.mark.parametrize(
    ("torso", "shape", "says"),
    [
        (
            "nature",
            (4,),
            r"nature, which takes observations \[K, H, W\], .* \[4\]: use --torso mlp",
        ),
        ("nature", (84, 84, 4), r"84 x 4, at least 36 x 36 needed"),
        ("minatar", (10, 2, 4), r"10 x 2, at least 3 x 3 needed"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_in_a_line(torso, shape, says):
    facts = EnvFacts(shape, np.dtype(np.uint8), 1.0, 3, 0)
    _, (line,) = prepare(Config(torso=torso, learner="torch"), facts)
    with pytest.raises(ValueError, match=says):
        raise ValueError(line)


def test_the_fused_learner_refuses_large_convolutions_by_name():
    assert problem("mlp", (1, 2, 3)) is None
    for torso, named in (("auto", "nature"), ("data-efficient", "data-efficient")):
        _, (line,) = prepare(Config(learner="fused", torso=torso), ATARI)
        assert line.startswith(f"learner is fused, which does not support torso {named}")
    for torso in ("auto", "minatar", "mlp"):
        assert prepare(Config(learner="fused", torso=torso), MINATAR)[1] == []


@pytest.mark.parametrize(
    ("changes", "learner"),
    [
        ({}, "fused"), ({"dueling": True, "noisy": True}, "fused"),
        ({"value": "implicit-quantile", "v_max": 1.0}, "fused"),
        ({"dueling": True, "hidden_sizes": (512,)}, "torch"), ({"optimizer": "rmsprop"}, "torch"),
        ({"torso": "data-efficient"}, "torch"),
    ],
)  # fmt: skip
def test_minatars_network_below_a_million_weights_is_fused(changes, learner):
    facts = ATARI if "torso" in changes else MINATAR
    config = PRESETS["minatar-breakout"].replace(device="cpu", **changes)
    config = config.replace(**settle(config, facts))
    assert choose_learner(config, measure_network(config, facts).weights)[0] == learner


# -- weights files


@pytest.mark.slow
@pytest.mark.parametrize("torso", FACTS)
@pytest.mark.parametrize("noisy", [False, True])
def test_a_loaded_policy_acts_as_the_one_that_was_saved(tmp_path, torso, noisy):
    config, facts = settled(FACTS[torso], torso=torso, noisy=noisy, dueling=True), FACTS[torso]
    online, description = agent.make_online(config, facts)
    save_weights(tmp_path / "policy.safetensors", online.named_tensors(), description)
    loaded, read = agent.load_policy(tmp_path / "policy.safetensors")
    assert (read["torso"], read["hidden_sizes"]) == (torso, list(config.hidden_sizes or ()))
    value = agent.make_learner(config, online).value
    obs = batch_for(facts).obs.numpy()
    expected = agent.make_policy(config, online, value, facts)(obs)
    np.testing.assert_array_equal(loaded(obs), expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"torso": "resnet"}, "torso of its network is 'resnet'"),
        ({"obs_shape": [4, 9, 9]}, "at least 36 x 36"),
        ({"obs_shape": [4]}, r"The observations are \[4\]"),
        ({"obs_shape": [4, 1 << 31, 1 << 31]}, "larger than any memory"),
        ({"torso": "minatar"}, "lacks|has shape"),
    ],
)
def test_a_description_that_lies_is_refused_in_a_line(tmp_path, changes, says):
    online, description = agent.make_online(settled(ATARI, hidden_sizes=(4,)), ATARI)
    path = tmp_path / "policy.safetensors"
    save_weights(path, online.named_tensors(), description | changes)
    with pytest.raises(WeightsError, match=says) as caught:
        agent.load_policy(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# -- what they need


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torso", "value", "dueling", "noisy"),
    list(
        itertools.product(
            FACTS, ["scalar", "categorical", "implicit-quantile", "hl-gauss"],
            [False, True], [False, True],
        )
    ),
)  # fmt: skip
def test_weights_are_counted_right_and_memory_is_not_underestimated(torso, value, dueling, noisy):
    facts = FACTS[torso]
    config = settled(
        facts, torso=torso, value=value, dueling=dueling, noisy=noisy, hidden_sizes=(16,)
    )
    online, _ = agent.make_online(config, facts)
    size = measure_network(config, facts)
    real = sum(parameter.numel() for parameter in online.module.parameters())
    assert size.weights == real
    learner = agent.make_learner(config, online)
    held, seen = {}, []

    def keep(tensor):
        seen.append(tensor)  # alive, so that no two share an address
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = AutogradSteps(learner, eager).loss(batch_for(facts), learner.draws.passes)
    assert len(graph) == 3
    held.pop(online.weights.untyped_storage().data_ptr(), None)  # counted as weights
    assert network_bytes(config, size) >= 9 * 4 * real + sum(held.values())


# -- bytes on their way


@pytest.mark.slow
@pytest.mark.parametrize("facts", [ATARI, MINATAR])
def test_observations_are_staged_as_they_are_stored_and_left_alone(facts):
    update, _, _ = learner_on(settled(facts), facts)
    update()
    config = settled(facts)
    online, _ = agent.make_online(config, facts)
    batch = batch_for(facts)
    assert batch.obs.numpy().dtype == facts.obs_dtype
    before = batch.obs.clone()
    online.module(batch.obs)
    assert torch.equal(batch.obs, before)


def test_float_pictures_are_not_scaled_in_place():
    facts = EnvFacts((10, 10, 4), np.dtype(np.float32), 1 / 255, 6, 0)
    online, _ = agent.make_online(settled(facts), facts)
    obs = torch.rand(2, 10, 10, 4)
    before = obs.clone()
    online.module(obs)
    assert torch.equal(obs, before)


def test_a_torso_of_the_users_own_stands_before_the_automatic_one():
    config, facts = settled(ATARI), ATARI
    own = nn.Sequential(nn.Flatten(), nn.Linear(4 * 84 * 84, 3))
    _, description = agent.make_online(config, facts, UserParts(own))
    assert description["torso"] == "custom"
