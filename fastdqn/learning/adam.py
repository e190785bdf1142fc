"""Adam on one flat tensor, through torch's fused kernel or in plain operations.

torch.optim.Adam would do the same arithmetic; constructing it imports the compiler stack, 0.75 s
of start-up, and its step() costs more Python than the kernel costs arithmetic.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Adam(ABC):
    """Kingma and Ba 2015 (arXiv 1412.6980), Algorithm 1, without weight decay.

    weights, gradient  [P] float32, of the learner; the first is updated in place
    learning_rate      a device scalar that a captured update reads afresh at each call
    epsilon            added to the root of the second moment; the authors' default
    """

    # The authors' defaults, as in torch.optim.Adam.
    betas = (0.9, 0.999)

    def __init__(
        self, weights: Tensor, gradient: Tensor, learning_rate: float, epsilon: float = 1e-8
    ):
        self.weights, self.gradient, self.epsilon = weights, gradient, epsilon
        self.learning_rate = torch.tensor(learning_rate, device=weights.device)
        self.exp_avg = torch.zeros_like(weights)
        self.exp_avg_sq = torch.zeros_like(weights)
        self.steps = torch.zeros((), device=weights.device)

    def step(self) -> None:
        self.steps += 1
        self._apply()

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside weights and gradient."""
        return {
            "learning_rate": self.learning_rate,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": self.steps,
        }

    @abstractmethod
    def _apply(self) -> None:
        """Move the weights along the gradient; self.steps counts this step already."""


class FusedAdam(Adam):
    """One kernel for the whole step; the compiler cannot trace it."""

    def _apply(self) -> None:
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            [self.weights], [self.gradient], [self.exp_avg], [self.exp_avg_sq], [], [self.steps],
            lr=self.learning_rate, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0,
            eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip


class PlainAdam(Adam):
    """Operations that a compiler fuses by itself."""

    def _apply(self) -> None:
        beta1, beta2 = self.betas
        self.exp_avg.lerp_(self.gradient, 1.0 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1.0 - beta2)
        step_size = self.learning_rate / (1.0 - beta1**self.steps)
        scale = (self.exp_avg_sq / (1.0 - beta2**self.steps)).sqrt_().add_(self.epsilon)
        self.weights.sub_(step_size * self.exp_avg / scale)
