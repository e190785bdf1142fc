"""Noisy layers equal an explicit noisy matrix; noise of learner and policy."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportOptionalMemberAccess=false, reportIndexIssue=false

from fractions import Fraction

import numpy as np
import pytest
import torch

from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.bootstrap_targets import DoubleBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.implicit_quantile import ImplicitHead, ImplicitQuantileValue
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import MLP, DuelingHead, Outputs, PlainHead, QNetwork
from fastdqn.learning.noisy import NoisyLayers, NoisyLinear, noise_size
from fastdqn.learning.policy import Policy
from fastdqn.learning.random_inputs import MEANS, Draws, LaneNoise
from fastdqn.learning.target_network import HardCopy
from fastdqn.learning.value import ScalarValue, squared_error
from helpers.compiler import traced
from helpers.learners import make_batch

CPU = torch.device("cpu")


def make_layer(fan_in=3, fan_out=2, start=4) -> NoisyLinear:
    torch.manual_seed(0)
    layer = NoisyLinear(fan_in, fan_out, 0.5, start)
    with torch.no_grad():
        layer.weight_sigma.copy_(torch.rand(fan_out, fan_in))
        layer.bias_sigma.copy_(torch.rand(fan_out))
    return layer


def written_out(layer: NoisyLinear, x, noise):
    """Equation 9 of arXiv 1706.10295 for one row x [fan_in], noise [D]: e, then f, from 4 on."""
    e, f = noise[4:7], noise[7:9]
    weight = layer.weight + layer.weight_sigma * torch.outer(f, e)
    return weight @ x + layer.bias + layer.bias_sigma * f


@pytest.mark.parametrize("num_noise", [1, 5])
def test_a_layer_equals_its_noisy_matrix(num_noise):
    layer, x, noise = make_layer(), torch.randn(5, 3), torch.randn(num_noise, 11)
    expected = [written_out(layer, x[i], noise[i % num_noise]) for i in range(5)]
    torch.testing.assert_close(layer(x, noise), torch.stack(expected))


@pytest.mark.parametrize("num_noise", [1, 5])
def test_all_fractions_of_a_row_see_the_rows_noise(num_noise):
    layer, x, noise = make_layer(), torch.randn(5, 7, 3), torch.randn(num_noise, 11)
    given = layer(x, noise)
    assert given.shape == (5, 7, 2)
    for i, j in ((0, 0), (3, 6), (4, 2)):
        torch.testing.assert_close(given[i, j], written_out(layer, x[i, j], noise[i % num_noise]))


def test_without_noise_a_layer_is_its_means():
    layer, x = make_layer(), torch.randn(5, 3)
    torch.testing.assert_close(layer(x, None), x @ layer.weight.T + layer.bias)


def test_initial_means_and_deviations_are_the_papers():
    """Section 3.2: means within 1/sqrt(fan_in), deviations sigma/sqrt(fan_in), biases too."""
    layer = NoisyLinear(64, 500, 0.5, 0)
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= 1 / 8
        assert mean.max() > 0.12
        assert mean.min() < -0.12
    for deviation in (layer.weight_sigma, layer.bias_sigma):
        assert deviation.unique().tolist() == [0.5 / 8]


def test_every_layer_has_its_own_noise():
    layer = NoisyLayers(0.5)
    first, second = layer(3, 2), layer(2, 4)
    network = torch.nn.Sequential(first, second)
    assert noise_size(network) == 3 + 2 + 2 + 4
    taken = [range(11)[each] for part in network for each in (part._input, part._output)]
    assert sorted(place for each in taken for place in each) == list(range(11))


# -- a learner with noisy layers


def make_learner(head=DuelingHead, implicit=False, optimizer=FusedAdam, capture=eager, seed=0):
    torch.manual_seed(0)
    made = head(16, Outputs(2), NoisyLayers(0.5), (8,))
    if implicit:
        made = ImplicitHead(16, made, num_fractions=4)
    online = FlatParameters(QNetwork(MLP(3, (16,)), made), CPU)
    fractions = (5, 6, 4, 0) if implicit else (0, 0, 0, 0)
    value = ImplicitQuantileValue(6, 4) if implicit else ScalarValue(squared_error)
    return Learner(
        online, value, DoubleBackup(),
        Draws(32, noise_size(online.module), fractions, CPU, seed),
        optimizer(online.weights, online.gradient, 1e-3), HardCopy(Fraction(10)), 1.0, capture,
    )  # fmt: skip


def test_every_pass_of_an_update_has_its_own_noise():
    learner, seen = make_learner(), {}
    for name, flat in (("online", learner.online), ("target", learner.target)):
        flat.module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[1].noise.clone())
        )
    for _ in range(2):
        learner.update(make_batch())
    assert [len(seen[name]) for name in ("online", "target")] == [4, 2]
    everything = torch.cat([*seen["online"], *seen["target"]])
    assert everything.unique().numel() == everything.numel()


@pytest.mark.slow
def test_learners_with_equal_random_inputs_agree():
    one, same, other = make_learner(seed=1), make_learner(seed=1), make_learner(seed=2)
    for update in range(20):
        for learner in (one, same, other):
            learner.update(make_batch(update))
    assert torch.equal(one.online.weights, same.online.weights)
    assert not torch.equal(one.online.weights, other.online.weights)


def test_a_state_includes_the_noise():
    one, two = make_learner(seed=1), make_learner(seed=2)
    for update in range(5):
        one.update(make_batch(update))
    two.load_state(one.state())
    for learner in (one, two):
        learner.update(make_batch(9))
    assert torch.equal(one.online.weights, two.online.weights)


@pytest.mark.parametrize("head", [PlainHead, DuelingHead])
def test_deviations_learn(head):
    learner = make_learner(head)
    before = {name: each.clone() for name, each in learner.online.named_tensors().items()}
    learner.update(make_batch())
    sigmas = [name for name in before if "sigma" in name]
    assert len(sigmas) == 4
    for name in sigmas:
        assert (learner.online.named_tensors()[name] != before[name]).any(), name


# -- acting


def make_policy(learner, seed=0) -> Policy:
    noise = LaneNoise(noise_size(learner.online.module), CPU, seed)
    return Policy(learner.online.eval_alias(), learner.value, CPU, (3,), 2, noise=noise)


OBS = np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32).repeat(200, 0)


@pytest.mark.parametrize("implicit", [False, True])
def test_noise_differs_between_environments_and_calls(implicit):
    learner = make_learner(implicit=implicit)
    for name, each in learner.online.named_tensors().items():
        if "sigma" in name:
            each.fill_(2.0)
    policy = make_policy(learner)
    first, second = policy.act(OBS, 0.0), policy.act(OBS, 0.0)
    assert 20 < first.sum() < 180
    assert (first != second).sum() > 20


def test_noise_explores_at_epsilon_zero_and_continues_from_a_state():
    learner = make_learner()
    one, two = make_policy(learner, seed=1), make_policy(learner, seed=2)
    one.act(OBS, 0.0)
    two.load_state(one.state())
    for _ in range(3):
        np.testing.assert_array_equal(one.act(OBS, 0.0), two.act(OBS, 0.0))


@pytest.mark.parametrize("implicit", [False, True])
def test_greedy_actions_use_mean_weights_and_draw_nothing(implicit):
    learner = make_learner(implicit=implicit)
    policy = make_policy(learner)
    obs = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    before = policy.state()["noise"]["generator"].copy()
    with torch.no_grad():
        output = learner.online.module(torch.from_numpy(obs), MEANS)
        expected = learner.value.expected(output).argmax(1)
    for _ in range(2):
        np.testing.assert_array_equal(policy(obs), expected)
    assert (policy.state()["noise"]["generator"] == before).all()


@pytest.mark.slow
def test_traced_equals_eager():
    reference = make_learner(implicit=True)
    fast = make_learner(implicit=True, optimizer=PlainAdam, capture=traced)
    fast.prepare(make_batch())
    for update in range(40):
        batch = make_batch(update)
        torch.testing.assert_close(
            fast.update(batch), reference.update(batch), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(fast.online.weights, reference.online.weights, rtol=1e-3, atol=1e-4)
    fast.online.check_views()
