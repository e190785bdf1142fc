"""What a network's output means. ScalarValue: one expected return per action."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fastdqn.learning.bootstrap_targets import Bootstrap
from fastdqn.learning.random_inputs import Draw

ElementLoss = Callable[[Tensor, Tensor], Tensor]


class SampleLoss(NamedTuple):
    """loss [B], not yet weighted; priority [B] >= 0; taken [B] the value of the action taken."""

    loss: Tensor
    priority: Tensor
    taken: Tensor


class Value(Protocol):
    def expected(self, output: Tensor) -> Tensor:
        """Network output to expected returns [B, A]."""
        ...

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """What the value of the action taken should become: [B, ...]."""
        ...

    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        """Compare the online output at the action taken [B] with the target.

        draw  the random inputs of the pass that gave the output
        """
        ...


class ScalarValue:
    """Output [B, A] is the expected return of each action itself."""

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
    """The numbers [B, Z] that output [B, Z, A] has for the action [B] int64."""
    index = action.reshape(-1, 1, 1).expand(-1, output.shape[1], 1)
    return output.gather(2, index).squeeze(2)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(prediction - target)^2 for each of [B]."""
    return functional.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Quadratic within 1 of the target, linear beyond, for each of [B]: slope at most 1."""
    return functional.smooth_l1_loss(prediction, target, reduction="none")
