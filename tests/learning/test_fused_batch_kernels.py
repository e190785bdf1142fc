"""Kernels of the fused family on a batch, against slow equivalents in NumPy and autograd."""

import itertools

import numpy as np
import pytest
import torch

from fastdqn.kernels import jit
from fastdqn.kernels.matmul import COLUMNS
from fastdqn.learning import fused_backups, fused_kernel, fused_passes
from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_family import FAMILY
from fastdqn.learning.fused_kernel import BLOCK
from fastdqn.learning.fused_learner import NO_MASK, gradient_scratch, layer_table, size_of
from fastdqn.learning.fused_mlp import Network, family_layers, noise_table
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.networks import DuelingHead, Outputs
from fastdqn.learning.noisy import noise_size
from fastdqn.learning.random_inputs import MEANS, Draw
from fastdqn.learning.value import ScalarValue
from helpers.fused import CPU
from helpers.fused_family import VALUES, make_network

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
ACTIONS, SIZE = 3, BLOCK + 9
BLOCKS = 2


def samples(blocks: np.ndarray, rows: int) -> np.ndarray:
    """Returns [blocks, rows * BLOCK] as [SIZE, rows]."""
    return blocks.reshape(BLOCKS, rows, BLOCK).transpose(0, 2, 1).reshape(-1, rows)[:SIZE]


def blocks_of(rows: np.ndarray) -> np.ndarray:
    """Returns [SIZE, rows] as [blocks, rows * BLOCK], padded with zeros."""
    padded = np.zeros((BLOCKS * BLOCK, rows.shape[1]), rows.dtype)
    padded[:SIZE] = rows
    return np.ascontiguousarray(
        padded.reshape(BLOCKS, BLOCK, -1).transpose(0, 2, 1).reshape(BLOCKS, -1)
    )


class Outcome:
    """A network's outputs in both layouts: torch [B, Z, A] or [B, A], and blocks of rows."""

    def __init__(self, rng, value, dueling: int, fractions: int = 0):
        scalar, rows = isinstance(value, ScalarValue), dueling + ACTIONS
        per_action = 1 if scalar else value.outputs_per_action or fractions
        raw = rng.normal(0.0, 2.0, (SIZE, per_action, rows)).astype(np.float32)
        self.raw = torch.tensor(raw, requires_grad=True)
        output = self.raw @ DuelingHead(1, Outputs(ACTIONS)).combine if dueling else self.raw
        self.output = output.squeeze(1) if scalar else output
        combined = raw.copy()
        combined[:, :, dueling:] = output.detach().numpy()
        self.blocks, self.rows = blocks_of(combined.reshape(SIZE, -1)), per_action * rows


@pytest.mark.parametrize(("name", "dueling"), list(itertools.product(VALUES, (0, 1))))
def test_a_value_equals_its_slow_twin(name, dueling):
    rng, value = np.random.default_rng(5), VALUES[name]()
    fused = FAMILY[type(value)](value, ACTIONS, dueling)
    fused.allocate(BLOCKS)
    following, here = (Outcome(rng, value, dueling, count) for count in (11, 7))
    values = np.zeros((BLOCKS, ACTIONS * BLOCK), np.float32)
    fused.expected(following.blocks, values)
    expected = value.expected(following.output).detach().numpy()
    np.testing.assert_allclose(samples(values, ACTIONS), expected, atol=1e-5)

    best = rng.integers(0, ACTIONS, SIZE)
    shares = np.eye(ACTIONS, dtype=np.float32)[best]
    entropy, bonus = np.zeros((2, SIZE), np.float32)
    if value.takes_bonus:
        shares = rng.dirichlet(np.ones(ACTIONS), SIZE).astype(np.float32)
        entropy, bonus = rng.normal(size=(2, SIZE)).astype(np.float32)
    reward, weight = rng.normal(0.0, 2.0, (2, SIZE)).astype(np.float32)
    discount = rng.choice(np.array([0.0, 0.9, 1.0], np.float32), SIZE)
    action, given = rng.integers(0, ACTIONS, SIZE), torch.from_numpy
    extra = (given(entropy), given(bonus)) if value.takes_bonus else ()
    target = value.target(
        following.output.detach(), Bootstrap(given(shares), *extra), given(reward), given(discount)
    )
    draw = Draw(fractions=torch.rand(SIZE, 7))
    loss, priority, taken = value.loss(here.output, given(action), target, draw)
    total = torch.dot(loss, given(weight))
    (total / SIZE).backward()

    padding = here.blocks.reshape(BLOCKS, here.rows, BLOCK)[-1, :, SIZE - BLOCK :]
    padding[:] = 3.0  # a network's outputs of zeros
    ours = np.zeros((2, SIZE), np.float32)
    fused.aim(
        following.blocks, blocks_of(best[:, None]), blocks_of(shares), blocks_of(entropy[:, None]),
        blocks_of(bonus[:, None]), reward, discount,
    )  # fmt: skip
    np.testing.assert_allclose(
        fused.compare(here.blocks, action, weight, draw, *ours), total.item(), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(ours[0], priority.detach(), atol=2e-5)
    np.testing.assert_allclose(ours[1], taken.detach(), atol=1e-5)
    assert here.raw.grad is not None
    np.testing.assert_allclose(
        samples(here.blocks, here.rows), here.raw.grad.reshape(SIZE, -1), atol=1e-6
    )
    assert not padding.any()


def log_policy(values: np.ndarray, mask: np.ndarray | None, temperature: float) -> np.ndarray:
    values = values.astype(np.float64)
    if mask is not None:
        values = np.where(mask, values, -np.inf)
    scaled = (values - values.max(1, keepdims=True)) / temperature
    return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_the_soft_backup_equals_its_slow_twin(masks, temperature):
    rng = np.random.default_rng(2)
    values, here = rng.normal(50.0, 1.0, (2, SIZE, ACTIONS)).astype(np.float32)
    action = rng.integers(0, ACTIONS, SIZE)
    mask, mask_here = rng.random((2, SIZE, ACTIONS)) < 0.5
    mask[np.arange(SIZE), action] = mask_here[np.arange(SIZE), action] = True
    given = (mask, mask_here) if masks else (NO_MASK, NO_MASK)
    shares = np.zeros((BLOCKS, ACTIONS * BLOCK), np.float32)
    entropy, bonus = np.ones((2, BLOCKS, BLOCK), np.float32)
    fused_backups.bootstrap_softly(
        blocks_of(values), blocks_of(here), action, *given, ACTIONS, np.float32(0.9),
        np.float32(temperature), np.float32(-1.0), np.zeros(ACTIONS * BLOCK, np.float32), shares,
        entropy, bonus,
    )  # fmt: skip
    logs = log_policy(values, mask if masks else None, temperature)
    policy = np.exp(logs)
    np.testing.assert_allclose(samples(shares, ACTIONS), policy, atol=1e-6)
    entropies = -temperature * (policy * np.where(policy > 0.0, logs, 0.0)).sum(1)
    np.testing.assert_allclose(samples(entropy, 1)[:, 0], entropies, atol=1e-6)
    logs = log_policy(here, mask_here if masks else None, temperature)
    scaled = np.clip(temperature * logs[np.arange(SIZE), action], -1.0, 0.0)
    np.testing.assert_allclose(samples(bonus, 1)[:, 0], 0.9 * scaled, atol=1e-6)


@pytest.mark.parametrize("masks", [False, True])
def test_the_greedy_backup_equals_its_slow_twin(masks):
    rng = np.random.default_rng(3)
    values = rng.integers(-2, 3, (SIZE, ACTIONS)).astype(np.float32)  # with equal values
    mask = rng.random((SIZE, ACTIONS)) < 0.5
    mask[np.arange(SIZE), rng.integers(0, ACTIONS, SIZE)] = True
    best, shares = np.ones((BLOCKS, BLOCK), np.int64), np.ones((BLOCKS, ACTIONS * BLOCK))
    shares = shares.astype(np.float32)
    fused_backups.bootstrap_greedily(
        blocks_of(values), mask if masks else NO_MASK, ACTIONS, best, shares
    )
    expected = np.where(mask, values, -np.inf).argmax(1) if masks else values.argmax(1)
    np.testing.assert_array_equal(samples(best, 1)[:, 0], expected)
    np.testing.assert_array_equal(samples(shares, ACTIONS), np.eye(ACTIONS)[expected])


@pytest.mark.parametrize("hidden", [(), (5,), (5, 18, 33)])
def test_noise_of_weights_and_its_gradient_equal_their_slow_twins(hidden):
    network = make_network(ScalarValue(), noisy=True, hidden=hidden)
    online, rng = FlatParameters(network, CPU), np.random.default_rng(4)
    layers = family_layers(network).all()
    table, noisy = layer_table(layers, online), noise_table(layers, online)
    noise = rng.normal(size=noise_size(network)).astype(np.float32)
    effective = np.zeros_like(online.weights.numpy())
    fused_passes.add_noise(online.weights.numpy(), noisy, table, noise, effective)
    gradient = rng.normal(size=len(effective)).astype(np.float32)
    after = gradient.copy()
    fused_passes.add_noise_gradients(after, noisy, table, noise)
    flat = online.weights.numpy()
    for row, (begin, of_bias, of_input, of_output) in zip(table, _places(noisy), strict=True):
        features, outputs = int(row[2]), int(row[3])
        weights, bias = slice(row[0], row[0] + outputs * features), slice(row[1], row[1] + outputs)
        if begin < 0:
            for part in (weights, bias):
                np.testing.assert_array_equal(effective[part], flat[part])
            continue
        sigma = slice(begin, begin + outputs * features)
        sigma_bias = slice(of_bias, of_bias + outputs)
        e, f = noise[of_input : of_input + features], noise[of_output : of_output + outputs]
        product = np.outer(f, e).ravel()
        expected = flat[weights] + flat[sigma] * product
        np.testing.assert_allclose(effective[weights], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            effective[bias], flat[bias] + flat[sigma_bias] * f, rtol=1e-6, atol=1e-7
        )
        np.testing.assert_allclose(after[sigma], gradient[weights] * product, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(after[sigma_bias], gradient[bias] * f, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(after[weights], gradient[weights])


def _places(noisy: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(each) for each in row) for row in noisy]


def test_normalized_observations_equal_those_of_the_network():
    network = make_network(ScalarValue(), normalizes=True)
    obs = np.random.default_rng(6).normal(0.0, 9.0, (50, 4)).astype(np.float32)
    ours, scale = Network(FlatParameters(network, CPU)).normalized(obs)
    assert network.statistics is not None
    np.testing.assert_array_equal(ours, network.statistics(torch.from_numpy(obs)).numpy())
    assert scale == 1.0
    assert np.abs(ours).max() == 10.0


def test_an_hl_gauss_priority_is_the_distance_to_the_target():
    """Not the divergence, so that it is in units of the return, as for scalar values."""
    value = HLGaussValue(11, -3.0, 4.0)
    outcome = Outcome(np.random.default_rng(0), value, 0)
    fused = FAMILY[HLGaussValue](value, ACTIONS, 0)
    fused.allocate(BLOCKS)
    nothing = np.zeros((BLOCKS, BLOCK), np.float32)
    shares = np.zeros((BLOCKS, ACTIONS * BLOCK), np.float32)
    reward, ones = np.full(SIZE, 20.0, np.float32), np.ones(SIZE, np.float32)
    fused.aim(outcome.blocks, None, shares, nothing, nothing, reward, ones)
    priority, taken = np.zeros((2, SIZE), np.float32)
    fused.compare(outcome.blocks, np.zeros(SIZE, np.int64), ones, MEANS, priority, taken)
    np.testing.assert_allclose(priority, 20.0 - taken, rtol=1e-6)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_weight_gradient_of_layers_of_any_size(blocks):
    """Beyond the weights lie other parameters, which must not change."""
    rng = np.random.default_rng(0)
    for features in (*range(1, 36), 63, 64, 65):
        for outputs in (1, 7, 8, 9, 10, 11, 17, 40):
            first = size_of(features) // BLOCK
            rows = first + size_of(outputs) // BLOCK
            x = rng.normal(size=(blocks, rows, BLOCK)).astype(np.float32)
            inputs, deltas = x[:, :features], x[:, first : first + outputs]
            expected = np.einsum("bos,bis->oi", deltas, inputs, dtype=np.float64)
            gradient = np.full(outputs * (features + 1) + 2 * COLUMNS, 7.0, np.float32)
            layer = np.array(
                [COLUMNS + outputs, COLUMNS, features, outputs, 0, first * BLOCK, 0, 0]
            )
            scratch = [
                np.full(each.size + COLUMNS, 7.0, np.float32) for each in gradient_scratch(blocks)
            ]
            fused_kernel.weight_gradient(layer, x.reshape(blocks, -1), *scratch, gradient)
            before, of_bias, of_weights, after = np.split(
                gradient, np.cumsum([COLUMNS, outputs, outputs * features])
            )
            np.testing.assert_allclose(of_weights.reshape(outputs, -1), expected, 1e-4, 1e-4)
            np.testing.assert_allclose(of_bias, deltas.sum((0, 2)), 1e-4, 1e-4)
            for beyond in (before, after, *(each[-COLUMNS:] for each in scratch)):
                assert (beyond == 7.0).all(), (features, outputs)
