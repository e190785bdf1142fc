"""Activations of hidden layers: values by hand, and modules that ReLU leaves as they were."""

import copy
import math

import pytest
import torch
from torch import nn

from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.networks import (
    ACTIVATIONS,
    MLP,
    Affine,
    DuelingHead,
    Outputs,
    PlainHead,
    QNetwork,
    StreamsHead,
)
from fastdqn.learning.noisy import NoisyLayers
from fastdqn.learning.rmsprop import RMSProp
from helpers.learners import make_batch, make_learner

# Values at -1 and 2; GELU is x times the standard normal distribution function.
BY_HAND = {
    "relu": (0.0, 2.0),
    "tanh": (-math.tanh(1.0), math.tanh(2.0)),
    "silu": (-1 / (1 + math.e), 2 / (1 + math.exp(-2.0))),
    "gelu": (-0.158655, 1.954500),
    "elu": (math.exp(-1.0) - 1.0, 2.0),
    "leaky-relu": (-0.01, 2.0),
}
HEADS = (PlainHead, DuelingHead, StreamsHead)


def one_to_one(layer: nn.Module) -> None:
    """Sets the weight of a layer with one input and one output to 1, and its bias to 0."""
    with torch.no_grad():
        layer.weight.fill_(1.0)  # pyright: ignore
        layer.bias.zero_()  # pyright: ignore


def test_every_activation_has_values_here():
    assert BY_HAND.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_and_a_head_apply_it_after_every_hidden_layer(name):
    x, expected = torch.tensor([[-1.0], [2.0]]), pytest.approx(BY_HAND[name], abs=1e-5)
    mlp = MLP(1, (1,), activation=name)
    one_to_one(mlp.layers[0])
    assert mlp(x).flatten().tolist() == expected
    head = PlainHead(1, Outputs(1), hidden_sizes=(1,), activation=name)
    for layer in (head.hidden[0], head.values):
        one_to_one(layer)
    assert head(x).flatten().tolist() == expected
    assert x.tolist() == [[-1.0], [2.0]]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layer", [Affine, NoisyLayers(0.5)])
def test_heads_compute_what_their_layers_and_the_function_compute(name, head, layer):
    made = head(3, Outputs(2), layer, (5, 4), activation=name)
    features, function = torch.randn(6, 3), ACTIVATIONS[name]

    def hidden(part):
        x = features
        for each in part.hidden:
            x = function(each(x, None))
        return x

    if head is PlainHead:
        expected = made.values(hidden(made), None)
    elif head is DuelingHead:
        expected = made.streams(hidden(made), None) @ made.combine
    else:
        advantage = made.advantage.values(hidden(made.advantage), None)
        value = made.value.values(hidden(made.value), None)
        expected = value + advantage - advantage.mean(1, keepdim=True)
    torch.testing.assert_close(made(features), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_names_of_weights_do_not_depend_on_it(name):
    for make in (
        lambda **given: MLP(3, (5, 4), **given),
        *(lambda head=head, **given: head(3, Outputs(2), Affine, (5,), **given) for head in HEADS),
    ):
        assert list(make(activation=name).state_dict()) == list(make().state_dict())


def test_relu_leaves_the_modules_as_they_were():
    layers = list(MLP(3, (5, 4)).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 2
    assert layers[1].inplace  # pyright: ignore
    kinds = {nn.ModuleList, Affine, nn.Identity, DuelingHead, PlainHead, StreamsHead}
    for head in HEADS:
        modules = list(head(3, Outputs(2), hidden_sizes=(5,)).modules())
        assert {type(module) for module in modules} <= kinds


def test_a_learner_learns_with_another_activation_and_its_copies_keep_it():
    network = MLP(3, (16,), activation="silu")
    assert torch.equal(copy.deepcopy(network)(torch.ones(1, 3)), network(torch.ones(1, 3)))
    learner = make_learner(head=lambda f, o: DuelingHead(f, o, hidden_sizes=(8,), activation="elu"))
    before = learner.online.weights.clone()
    learner.update(make_batch())
    assert learner.online.weights.isfinite().all()
    assert not torch.equal(learner.online.weights, before)


@pytest.mark.parametrize("part", ["torso", "head"])
def test_the_fused_update_rejects_another_activation(part):
    learner = make_learner(head=PlainHead)
    network = learner.online.module
    assert isinstance(network, QNetwork)
    setattr(network, part, {
        "torso": MLP(3, (16,), activation="tanh"),
        "head": PlainHead(16, Outputs(2), activation="tanh"),
    }[part])  # fmt: skip
    with pytest.raises(ValueError, match="supports ReLU only, not tanh"):
        FusedStep(learner)


def test_the_fused_update_rejects_another_optimizer():
    with pytest.raises(ValueError, match="supports Adam only, not RMSProp"):
        FusedStep(make_learner(head=PlainHead, optimizer=RMSProp))


@pytest.mark.parametrize(
    ("make", "given"), [(MLP, (3, (4,))), *((head, (3, Outputs(2))) for head in HEADS)]
)
def test_an_unknown_activation_is_rejected(make, given):
    with pytest.raises(ValueError, match="activation is 'swish': use one of relu, tanh, silu"):
        make(*given, activation="swish")
