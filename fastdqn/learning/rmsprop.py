"""RMSProp on one flat tensor, the optimizer with which DQN was published."""

import torch
from torch import Tensor

from fastdqn.learning.optimizer import Optimizer


class RMSProp(Optimizer):
    """Centered RMSProp without momentum (Mnih et al. 2015, extended data table 1).

    The squared gradient is centered by the square of the mean gradient, and epsilon is inside the
    root. torch.optim.RMSprop adds it outside. The defaults are those of the paper: gradient
    momentum and squared gradient momentum 0.95, and minimum squared gradient 0.01. The paper sums
    the gradients of a batch of 32. A loss that is their mean has gradients of 1/32, so epsilon is
    0.01/32^2, as in DQN Zoo.

    Args:
        weights: float32[P], updated in place.
        gradient: float32[P].
        learning_rate: Initial value of a device scalar, which a captured update reads at each call.
        decay: Factor of both running means per step, in [0, 1).
        epsilon: Added to the variance of the gradient, above 0.

    Raises:
        ValueError: decay or epsilon is outside its limits.
    """

    compiles = True

    def __init__(
        self,
        weights: Tensor,
        gradient: Tensor,
        learning_rate: float,
        decay: float = 0.95,
        epsilon: float = 0.01 / 32**2,
    ):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}, must be at least 0 and below 1")
        if not epsilon > 0.0:
            raise ValueError(f"epsilon is {epsilon}, must be above 0")
        self.weights, self.gradient = weights, gradient
        self.decay, self.epsilon = decay, epsilon
        self.learning_rate = torch.tensor(learning_rate, device=weights.device)
        self.gradient_mean = torch.zeros_like(weights)
        self.square_mean = torch.zeros_like(weights)

    def step(self) -> None:
        gradient, share = self.gradient, 1.0 - self.decay
        self.gradient_mean.lerp_(gradient, share)
        self.square_mean.mul_(self.decay).addcmul_(gradient, gradient, value=share)
        variance = torch.addcmul(
            self.square_mean, self.gradient_mean, self.gradient_mean, value=-1.0
        )
        # Rounding may leave a difference of large numbers below -epsilon.
        scale = variance.clamp_(min=0.0).add_(self.epsilon).sqrt_()
        self.weights.sub_(self.learning_rate * gradient / scale)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that the next step depends on, without weights and gradient."""
        return {
            "learning_rate": self.learning_rate,
            "gradient_mean": self.gradient_mean,
            "square_mean": self.square_mean,
        }
