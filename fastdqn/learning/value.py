"""Value: the meaning of a network's output, and ScalarValue, one expected return per action."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw

ElementLoss = Callable[[Tensor, Tensor], Tensor]


class SampleLoss(NamedTuple):
    """loss [B], unweighted; priority [B] >= 0; taken [B], the value of the action taken."""

    loss: Tensor
    priority: Tensor
    taken: Tensor


class Value(Protocol):
    """The meaning of a network's output: expected returns, TD targets and the loss."""

    def expected(self, output: Tensor) -> Tensor:
        """Returns the expected returns [B, A]."""
        ...

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Returns the targets [B, ...] of the actions taken."""
        ...

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        """Returns the loss of the online output for action [B].

        draw holds the random inputs of the forward pass.
        """
        ...


class ScalarValue:
    """Network output [B, A]: the expected return of each action."""

    def __init__(self, element_loss: ElementLoss):
        self.element_loss = element_loss

    def expected(self, output: Tensor) -> Tensor:
        return output

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        next_value = (next_output * bootstrap.action_weights).sum(1)  # [B]
        if bootstrap.entropy is not None:
            next_value = next_value + bootstrap.entropy
        if bootstrap.bonus is not None:
            reward = reward + bootstrap.bonus
        return torch.addcmul(reward, discount, next_value)

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        taken = output.gather(1, action.unsqueeze(1)).squeeze(1)  # [B]
        priority = (target - taken.detach()).abs()
        return SampleLoss(self.element_loss(taken, target), priority, taken)


def of_action(output: Tensor, action: Tensor) -> Tensor:
    """Selects [B, Z] from output [B, Z, A] for action int64[B]."""
    index = action.reshape(-1, 1, 1).expand(-1, output.shape[1], 1)
    return output.gather(2, index).squeeze(2)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns (prediction - target)^2, [B]."""
    return functional.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns the Huber loss [B], quadratic within 1 of the target and linear beyond."""
    return functional.smooth_l1_loss(prediction, target, reduction="none")
