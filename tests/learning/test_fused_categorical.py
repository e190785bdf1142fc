"""Kernels of C51 on a block of samples, against CategoricalValue and autograd."""

import numpy as np
import pytest
import torch

from fastdqn.kernels import jit
from fastdqn.kernels.vector_math import BLOCK
from fastdqn.learning import fused_categorical, fused_passes
from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.networks import DuelingHead, Outputs
from fastdqn.learning.random_inputs import MEANS

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")
SIZES = [(BLOCK, 0), (BLOCK, 1), (5, 0), (5, 1)]
BATCH, FIRST = 2 * BLOCK, BLOCK


class Block:
    """Outputs of a network for a block, as torch [B, Z, A] and as a kernel's rows."""

    def __init__(self, size: int, dueling: int, *, seed: int = 0, actions: int = 3, atoms: int = 9):
        rng = np.random.default_rng(seed)
        self.size, self.dueling, self.actions, self.atoms = size, dueling, actions, atoms
        self.value = CategoricalValue(atoms, -2.0, 4.0)
        raw = rng.normal(0.0, 2.0, (atoms, dueling + actions, BLOCK)).astype(np.float32)
        raw[:, :, size:] = 0.0
        self.rows = raw.ravel().copy()
        self.raw = torch.tensor(raw[:, :, :size].transpose(2, 0, 1), requires_grad=True)
        head = DuelingHead(1, Outputs(actions, atoms)) if dueling else None
        self.output = self.raw @ head.combine if head else self.raw  # [size, Z, A]
        if dueling:
            fused_passes.combine_streams(self.rows, atoms, actions)
        self.action = rng.integers(0, actions, BATCH)
        self.reward = rng.normal(0.0, 2.0, BATCH).astype(np.float32)
        self.discount = rng.choice(np.array([0.0, 0.9, 1.0], np.float32), BATCH)
        self.weight = rng.uniform(0.1, 1.0, BATCH).astype(np.float32)

    def of_block(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array[FIRST : FIRST + self.size])

    def projected(self) -> np.ndarray:
        """Returns the kernel's target [size, Z]; the action taken stands for the best one."""
        best = np.zeros(BLOCK, np.int64)
        best[: self.size] = self.of_block(self.action)
        probs, target = np.zeros((2, self.atoms * BLOCK), np.float32)
        fused_categorical.project_best(
            self.rows, best, FIRST, self.size, self.value.atoms.numpy(), self.reward,
            self.discount, self.actions, self.dueling, probs, np.empty(5 * BLOCK, np.float32),
            target,
        )  # fmt: skip
        return target

    def of_samples(self, rows: np.ndarray, per_atom: int = 1) -> np.ndarray:
        """Returns rows [Z * per_atom, BLOCK] as [size, Z, per_atom]."""
        return rows.reshape(self.atoms, per_atom, BLOCK)[:, :, : self.size].transpose(2, 0, 1)


@pytest.mark.parametrize(("size", "dueling"), SIZES)
def test_expected_returns_equal_torch(size, dueling):
    block = Block(size, dueling)
    values = np.empty(block.actions * BLOCK, np.float32)
    atoms = block.value.atoms.numpy()
    fused_categorical.expected_returns(block.rows, atoms, block.actions, dueling, values)
    found = values.reshape(block.actions, BLOCK).T[:size]
    np.testing.assert_allclose(found, block.value.expected(block.output).detach(), atol=2e-6)


@pytest.mark.parametrize(("size", "dueling"), SIZES)
def test_target_equals_torch(size, dueling):
    block = Block(size, dueling)
    one_hot = torch.eye(block.actions)[block.of_block(block.action)]
    expected = block.value.target(
        block.output, Bootstrap(one_hot), block.of_block(block.reward),
        block.of_block(block.discount),
    )  # fmt: skip
    found = block.of_samples(block.projected())[:, :, 0]
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)


def test_an_atom_met_exactly_keeps_its_mass_and_mass_beyond_stays_on_the_outer_atoms():
    block = Block(BLOCK, 0)
    for reward, atom in ((1.0, 4), (-2.0, 0), (4.0, 8), (-1e30, 0), (np.inf, 8)):
        block.reward[:], block.discount[:] = reward, 0.0
        target = block.of_samples(block.projected())[:, :, 0]
        np.testing.assert_allclose(target, np.tile(np.eye(9)[atom], (BLOCK, 1)), atol=1e-6)


def test_a_nan_reward_makes_its_own_target_nan_only():
    block = Block(BLOCK, 0)
    block.reward[FIRST + 3] = np.nan
    target = block.of_samples(block.projected())[:, :, 0]
    assert np.isnan(target).any(1).tolist() == [s == 3 for s in range(BLOCK)]


@pytest.mark.parametrize(("size", "dueling"), SIZES)
def test_loss_and_gradient_equal_autograd(size, dueling):
    block, following = Block(size, dueling), Block(size, dueling, seed=1)
    target = following.projected()
    found = block.value.loss(
        block.output, block.of_block(block.action),
        torch.from_numpy(following.of_samples(target)[:, :, 0].copy()), MEANS,
    )  # fmt: skip
    loss = (found.loss * block.of_block(block.weight)).sum()
    (loss / BATCH).backward()
    priority, taken = np.zeros((2, BATCH), np.float32)
    total = fused_categorical.compare_distributions(
        block.rows, target, FIRST, size, block.value.atoms.numpy(), block.action, block.weight,
        block.actions, dueling, np.empty(block.atoms * BLOCK, np.float32),
        np.empty(BLOCK, np.int64), np.empty(3 * BLOCK, np.float32), priority, taken,
    )  # fmt: skip
    np.testing.assert_allclose(total, loss.item(), rtol=1e-5)
    assert block.raw.grad is not None
    gradient = block.of_samples(block.rows, dueling + block.actions)
    np.testing.assert_allclose(gradient, block.raw.grad, atol=1e-8)
    np.testing.assert_allclose(block.of_block(priority), found.priority, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(block.of_block(taken), found.taken.detach(), atol=2e-6)
    beyond = block.rows.reshape(-1, BLOCK)[:, size:]
    assert not beyond.any()
    assert not priority[:FIRST].any()
    assert not priority[FIRST + size :].any()


def test_a_prediction_equal_to_its_target_has_no_loss():
    block = Block(BLOCK, 0)
    block.reward[:], block.discount[:] = 0.0, 1.0
    target = block.projected()
    priority, taken = np.zeros((2, BATCH), np.float32)
    fused_categorical.compare_distributions(
        block.rows, target, FIRST, BLOCK, block.value.atoms.numpy(), block.action, block.weight,
        block.actions, 0, np.empty(block.atoms * BLOCK, np.float32), np.empty(BLOCK, np.int64),
        np.empty(3 * BLOCK, np.float32), priority, taken,
    )  # fmt: skip
    assert (priority >= 0.0).all()
    np.testing.assert_allclose(priority, 0.0, atol=1e-6)
    np.testing.assert_allclose(block.rows, 0.0, atol=1e-8)
