"""Adam on one flat tensor, through torch's fused kernel.

torch.optim.Adam would do the same arithmetic; constructing it imports the compiler stack, 0.75 s
of start-up, and its step() costs more Python than the kernel costs arithmetic.
"""

import torch
from torch import Tensor


class Adam:
    """Kingma and Ba 2015 (arXiv 1412.6980), Algorithm 1, without weight decay.

    weights, gradient  [P] float32, of the learner; the first is updated in place
    learning_rate      a device scalar that a captured update reads afresh at each call
    """

    # The authors' defaults, as in torch.optim.Adam.
    betas = (0.9, 0.999)
    epsilon = 1e-8

    def __init__(self, weights: Tensor, gradient: Tensor, learning_rate: float):
        self.weights, self.gradient = weights, gradient
        self.learning_rate = torch.tensor(learning_rate, device=weights.device)
        self.exp_avg = torch.zeros_like(weights)
        self.exp_avg_sq = torch.zeros_like(weights)
        self.steps = torch.zeros((), device=weights.device)

    def step(self) -> None:
        self.steps += 1
        torch._fused_adam_(
            [self.weights], [self.gradient], [self.exp_avg], [self.exp_avg_sq], [], [self.steps],
            lr=self.learning_rate, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0,
            eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside weights and gradient."""
        return {
            "learning_rate": self.learning_rate,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": self.steps,
        }
