"""Kernels of MinAtar's network on a batch, against slow equivalents in NumPy and autograd."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import numpy as np
import pytest
import torch
from torch import nn

from fastdqn.kernels import jit
from fastdqn.kernels.matmul import COLUMNS
from fastdqn.learning import fused_passes
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_heads import head_table
from fastdqn.learning.fused_kernel import BLOCK, INNER, INPUT, OUTPUT
from fastdqn.learning.fused_learner import end_of, gradient_scratch
from fastdqn.learning.fused_mlp import family_layers
from fastdqn.learning.fused_torsos import MinAtarTorso, make_torso
from fastdqn.learning.value import ScalarValue
from helpers.fused import CPU
from helpers.fused_family import make_network

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
SIZE = BLOCK + 9
BLOCKS = 2
SHAPES = [(5, 5, 2), (3, 4, 1), (10, 10, 4), (6, 3, 10)]


def samples(blocks: np.ndarray, rows: int) -> np.ndarray:
    """Returns [blocks, at least rows * BLOCK] as [SIZE, rows]."""
    used = np.ascontiguousarray(blocks[:, : rows * BLOCK])
    return used.reshape(BLOCKS, rows, BLOCK).transpose(0, 2, 1).reshape(-1, rows)[:SIZE]


def blocks_of(rows: np.ndarray) -> np.ndarray:
    """Returns [SIZE, rows] as [blocks, rows * BLOCK], padded with zeros."""
    padded = np.zeros((BLOCKS * BLOCK, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded.reshape(BLOCKS, BLOCK, -1).transpose(0, 2, 1).reshape(BLOCKS, -1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_convolution_and_its_gradient_equal_autograd(shape, dtype):
    rng = np.random.default_rng(0)
    network = make_network(ScalarValue(), inputs=shape)
    online = FlatParameters(network, CPU)
    torso = make_torso(online, family_layers(network))
    assert type(torso) is MinAtarTorso
    obs = rng.integers(0, 9, (SIZE, *shape)).astype(dtype)
    x = rng.normal(size=(BLOCKS, torso.width)).astype(np.float32)  # of the batch before
    weights = online.weights.numpy()
    torso.forward(weights, obs.reshape(SIZE, -1), np.float32(0.5), x)
    features = network.torso(torch.from_numpy(obs).float() * 0.5)
    ours = x[:, torso.at_features :]
    np.testing.assert_allclose(samples(ours, features.shape[1]), features.detach(), atol=1e-5)

    slopes = rng.normal(size=features.shape).astype(np.float32)
    (features * torch.from_numpy(slopes)).sum().backward()
    before_relu = np.where(features.detach() > 0.0, slopes, np.float32(0.0))
    ours[:, : features.shape[1] * BLOCK] = blocks_of(before_relu)
    expected = online.gradient.numpy().copy()
    online.gradient.fill_(torch.nan)
    torso.backward(weights, x, *gradient_scratch(BLOCKS), online.gradient.numpy())
    layer = network.torso.kernels
    for parameter in (layer.weight, layer.bias):
        begin = (parameter.data_ptr() - online.weights.data_ptr()) // 4
        place = slice(begin, begin + parameter.numel())
        np.testing.assert_allclose(
            online.gradient.numpy()[place], expected[place], rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("features", [5, COLUMNS, 2 * COLUMNS + 1, 3 * COLUMNS - 1])
@pytest.mark.parametrize("outputs", [1, 7, 70])
def test_wide_layers_and_their_gradients_equal_their_slow_twins(features, outputs):
    rng = np.random.default_rng(1)
    value, advantage = nn.Linear(features, outputs), nn.Linear(features, 2 * outputs)
    online = FlatParameters(nn.ModuleList([value, advantage]), CPU)
    table, of_value = head_table([[value], [advantage]], online)
    x = np.full((BLOCKS, end_of(table)), np.nan, np.float32)
    given = np.maximum(rng.normal(size=(SIZE, features)), 0.0).astype(np.float32)
    x[:, : features * BLOCK] = blocks_of(given)
    weights, gradient = online.weights.numpy(), np.full_like(online.weights.numpy(), np.nan)
    fused_passes.through_wide_layers(table, weights, x)
    places = (of_value, int(table[1, OUTPUT]))
    deltas = [rng.normal(size=(SIZE, each.out_features)) for each in (value, advantage)]
    slopes = np.zeros((SIZE, features))
    for layer, at, delta in zip((value, advantage), places, deltas, strict=True):
        rows, weight = layer.out_features, layer.weight.detach().numpy()
        expected = given @ weight.T + layer.bias.detach().numpy()
        np.testing.assert_allclose(samples(x[:, at:], rows), expected, atol=1e-5)
        x[:, at : at + rows * BLOCK] = blocks_of(delta)
        slopes += delta @ weight
    scratch = (np.full(features * BLOCK, np.nan, np.float32), *gradient_scratch(BLOCKS))
    fused_passes.backward_head(
        table, table[:0], weights, x, places[1], (1, 2 * outputs, -1), *scratch, gradient
    )
    for row, delta in zip(table, deltas, strict=True):
        at, of_bias, _, rows = (int(each) for each in row[:4])
        ours = gradient[at : at + rows * features].reshape(rows, features)
        np.testing.assert_allclose(ours, delta.T @ given, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            gradient[of_bias : of_bias + rows], delta.sum(0), rtol=1e-4, atol=1e-4
        )
    expected = np.where(given > 0.0, slopes, 0.0)
    np.testing.assert_allclose(samples(x, features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("per_action", "actions"), [(1, 1), (1, 6), (5, 3)])
def test_streams_join_and_part(per_action, actions):
    rng = np.random.default_rng(2)
    value, gradient = (
        rng.normal(size=(per_action, n, BLOCK)).astype(np.float32) for n in (1, actions)
    )
    advantage = rng.normal(size=(per_action, actions, BLOCK)).astype(np.float32)
    q, of_values = advantage.ravel().copy(), value.ravel().copy()
    fused_passes.join_streams(of_values, q, per_action, actions)
    expected = value + advantage - advantage.mean(1, keepdims=True)
    np.testing.assert_allclose(q, expected.ravel(), atol=1e-6)
    q = gradient.ravel().copy()
    fused_passes.backward_streams(of_values, q, per_action, actions)
    np.testing.assert_allclose(of_values, gradient.sum(1).ravel(), atol=1e-6)
    expected = gradient - gradient.mean(1, keepdims=True)
    np.testing.assert_allclose(q, expected.ravel(), atol=1e-6)


def test_streams_read_the_same_features_and_end_in_the_advantages():
    network = make_network(ScalarValue(), inputs=(5, 5, 2), hidden=(24, 17))
    online = FlatParameters(network, CPU)
    table, of_value = head_table(family_layers(network).chains, online, 64)
    assert table[:, INPUT].tolist()[::3] == [64, 64]
    assert table[:, INNER].tolist() == [0, 1, 1, 0, 1, 1]
    assert of_value == table[2, OUTPUT]
    starts = np.unique(table[:, OUTPUT])
    assert len(starts) == len(table)
