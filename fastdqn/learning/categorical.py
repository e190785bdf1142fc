"""CategoricalValue: the return distribution over fixed atoms (C51)."""

from typing import Self

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import SampleLoss, Value, check_range, of_action


class CategoricalValue(Value):
    """Network output [B, Z, A]: logits of Z atoms for each action.

    The loss is the Kullback-Leibler divergence from target to prediction. It has the gradient of
    the cross entropy and is 0 if both agree. It is also the priority, as in Rainbow.

    Source: Bellemare et al. 2017 (arXiv 1707.06887).

    Args:
        num_atoms: Z, at least 2.
        v_min: The return of the first atom, in reward units.
        v_max: The return of the last atom.

    Attributes:
        atoms: float32[Z], evenly spaced and ascending returns.

    Raises:
        ValueError: There are fewer than 2 atoms, or v_min is not below v_max.
    """

    takes_bonus = False  # a bonus per sample would move the atoms

    def __init__(self, num_atoms: int, v_min: float, v_max: float):
        check_range(num_atoms, v_min, v_max)
        self.outputs_per_action, self.bounds = num_atoms, (v_min, v_max)
        self.atoms = torch.linspace(v_min, v_max, num_atoms)

    def to(self, device: torch.device) -> Self:
        self.atoms = self.atoms.to(device)
        return self

    def expected(self, output: Tensor) -> Tensor:
        return self.atoms @ output.softmax(1)  # [Z] @ [B, Z, A] to [B, A]

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Returns the target probabilities [B, Z]; bootstrap has no entropy and no bonus."""
        assert bootstrap.entropy is None
        assert bootstrap.bonus is None
        probs = bootstrap.expectation(next_output.softmax(1))  # [B, Z]
        return project_categorical(probs, self.atoms, reward, discount)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        log_probs = of_action(output, action).log_softmax(1)  # [B, Z]
        divergence = (torch.xlogy(target, target) - target * log_probs).sum(1)
        taken = log_probs.exp() @ self.atoms
        return SampleLoss(divergence, divergence.detach().clamp(min=0.0), taken)


def project_categorical(probs: Tensor, atoms: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """Applies one Bellman step to return distributions and projects them to the atoms.

    Source: Bellemare et al. 2017 (arXiv 1707.06887), Algorithm 1.

    Args:
        probs: float32[B, Z], distributions at the bootstrap state; rows sum to 1.
        atoms: float32[Z], evenly spaced and ascending returns, in reward units.
        reward: float32[B], the n-step return.
        discount: float32[B], gamma^m; 0 after termination.

    Returns:
        float32[B, Z]; rows sum to 1. Mass beyond the outer atoms is added to them.
    """
    last = len(atoms) - 1
    moved = reward.unsqueeze(1) + discount.unsqueeze(1) * atoms  # [B, Z]
    place = ((moved - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp(0, last)
    lower = place.floor()
    above = (place - lower) * probs
    # If a value is exactly an atom, all its mass goes to the lower index, so none is lost.
    lower = lower.long()
    projected = torch.zeros_like(probs).scatter_add_(1, lower, probs - above)
    return projected.scatter_add_(1, (lower + 1).clamp(max=last), above)
