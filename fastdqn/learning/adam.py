"""Adam on one flat tensor, as torch's fused kernel or as plain operations.

torch.optim.Adam has the same arithmetic. Constructing it imports the compiler stack, which takes
0.75 s at start-up, and its step() spends more time in Python than the kernel takes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


def make_adam(
    weights: Tensor,
    gradient: Tensor,
    learning_rate: float,
    adam_epsilon: float = 1e-8,
    capture: str = "eager",
) -> "Adam":
    """Returns Adam in the form that suits the option capture."""
    form = PlainAdam if capture.startswith("compile") else FusedAdam
    return form(weights, gradient, learning_rate, adam_epsilon)


class Adam(ABC):
    """Adam without weight decay (Kingma and Ba 2015, arXiv 1412.6980, Algorithm 1).

    Args:
        weights: float32[P], updated in place.
        gradient: float32[P].
        learning_rate: Initial value of a device scalar, which a captured update reads at each call.
        epsilon: Added to the root of the second moment; the default is the authors'.
    """

    compiles = False
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
        """Returns the tensors that the next step depends on, without weights and gradient."""
        return {
            "learning_rate": self.learning_rate,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": self.steps,
        }

    @abstractmethod
    def _apply(self) -> None:
        """Updates the weights; self.steps already includes this step."""


class FusedAdam(Adam):
    """One kernel for the whole step, which torch.compile cannot trace."""

    def _apply(self) -> None:
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            [self.weights], [self.gradient], [self.exp_avg], [self.exp_avg_sq], [], [self.steps],
            lr=self.learning_rate, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0,
            eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip


class PlainAdam(Adam):
    """Plain operations, which torch.compile fuses."""

    compiles = True

    def _apply(self) -> None:
        beta1, beta2 = self.betas
        self.exp_avg.lerp_(self.gradient, 1.0 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1.0 - beta2)
        step_size = self.learning_rate / (1.0 - beta1**self.steps)
        scale = (self.exp_avg_sq / (1.0 - beta2**self.steps)).sqrt_().add_(self.epsilon)
        self.weights.sub_(step_size * self.exp_avg / scale)
