"""CategoricalValue: a distribution of the return over fixed atoms (C51)."""

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import SampleLoss, of_action


class CategoricalValue:
    """Output [B, Z, A] holds the logits of Z atoms for each action.

    atoms  [Z] float32, evenly spaced, ascending: returns, in reward units

    The loss is the Kullback-Leibler divergence from target to prediction, which has the gradient
    of the cross entropy and is 0 where they agree; it is the priority too, as in Rainbow.
    Bellemare et al. 2017 (arXiv 1707.06887). Raises ValueError where there are fewer than 2 atoms.
    """

    def __init__(self, atoms: Tensor):
        if len(atoms) < 2:
            raise ValueError(f"{len(atoms)} atoms: a distribution needs at least 2")
        self.atoms = atoms

    def expected(self, output: Tensor) -> Tensor:
        return self.atoms @ output.softmax(1)  # [Z] @ [B, Z, A] to [B, A]

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Probabilities [B, Z] after one Bellman step; bootstrap has neither entropy nor bonus."""
        assert bootstrap.entropy is None
        assert bootstrap.bonus is None
        probs = (next_output.softmax(1) * bootstrap.action_weights.unsqueeze(1)).sum(2)  # [B, Z]
        return project_categorical(probs, self.atoms, reward, discount)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        log_probs = of_action(output, action).log_softmax(1)  # [B, Z]
        divergence = (torch.xlogy(target, target) - target * log_probs).sum(1)
        taken = log_probs.exp() @ self.atoms
        return SampleLoss(divergence, divergence.detach().clamp(min=0.0), taken)


def project_categorical(probs: Tensor, atoms: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """Move each return distribution by one Bellman step and put it back on the fixed atoms.

    probs    [B, Z] f32, rows sum to 1: distribution at the bootstrap state
    atoms    [Z] f32, evenly spaced, ascending: returns, in reward units
    reward   [B] n-step return;  discount [B] gamma^m, 0 after termination
    returns  [B, Z] rows sum to 1; mass beyond the end atoms stays on them

    Bellemare et al. 2017 (arXiv 1707.06887), Algorithm 1.
    """
    last = len(atoms) - 1
    moved = reward.unsqueeze(1) + discount.unsqueeze(1) * atoms  # [B, Z]
    place = ((moved - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp(0, last)
    lower = place.floor()
    above = (place - lower) * probs
    # An atom that is met exactly gets all of its mass from below: nothing is lost.
    lower = lower.long()
    projected = torch.zeros_like(probs).scatter_add_(1, lower, probs - above)
    return projected.scatter_add_(1, (lower + 1).clamp(max=last), above)
