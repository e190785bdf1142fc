"""Value: the meaning of a network's output, and ScalarValue, one expected return per action."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.learning.bootstrap_targets import Backup, Bootstrap
from fastdqn.learning.random_inputs import Draw

ElementLoss = Callable[[Tensor, Tensor], Tensor]


class SampleLoss(NamedTuple):
    """loss [B], unweighted; priority [B] >= 0; taken [B], the value of the action taken."""

    loss: Tensor
    priority: Tensor
    taken: Tensor


class Value(Protocol):
    """The meaning of a network's output: expected returns, TD targets and the loss.

    Subclasses inherit the defaults below, and define expected(), target() and loss().

    Attributes:
        outputs_per_action: Z, the outputs of the head for each action. None: one, without an axis.
        bounds: The smallest and the largest return that can be represented, or None.
        takes_bonus: Whether target() can add the entropy and the bonus of a Bootstrap.
    """

    outputs_per_action: int | None = None
    bounds: tuple[float, float] | None = None
    takes_bonus: bool = True

    def to(self, device: torch.device) -> Self:
        """Moves constants to a device, and returns the same object."""
        return self

    def wrap_head(self, num_features: int, head: nn.Module) -> nn.Module:
        """Returns the head of a network with F features, or a module around it."""
        return head

    def fractions_of_passes(self, backup: Backup) -> tuple[int, int, int, int]:
        """Returns the random fractions per sample of each forward pass, in the order of Passes."""
        return 0, 0, 0, 0

    @abstractmethod
    def expected(self, output: Tensor) -> Tensor:
        """Returns the expected returns [B, A]."""
        ...

    @abstractmethod
    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Returns the targets [B, ...] of the actions taken."""
        ...

    @abstractmethod
    def loss(self, output: Tensor, action: Tensor, target: Tensor, draw: Draw) -> SampleLoss:
        """Returns the loss of the online output for action [B].

        draw holds the random inputs of the forward pass.
        """
        ...


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns (prediction - target)^2, [B]."""
    return functional.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns the Huber loss [B], quadratic within 1 of the target and linear beyond."""
    return functional.smooth_l1_loss(prediction, target, reduction="none")


class ScalarValue(Value):
    """Network output [B, A]: the expected return of each action.

    Args:
        loss: Function of predictions [B] and targets [B] that returns the losses [B].
    """

    def __init__(self, loss: ElementLoss = squared_error):
        self.element_loss = loss

    def expected(self, output: Tensor) -> Tensor:
        return output

    def target(
        self, next_output: Tensor, bootstrap: Bootstrap, reward: Tensor, discount: Tensor
    ) -> Tensor:
        next_value = bootstrap.expectation(next_output)  # [B]
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


def check_range(num_atoms: int, v_min: float, v_max: float) -> None:
    """Raises ValueError for fewer than 2 atoms or bins, or if v_min is not below v_max."""
    if num_atoms < 2:
        raise ValueError(f"num_atoms is {num_atoms}: it must be at least 2")
    if not v_min < v_max:
        raise ValueError(f"v_min is {v_min}, not below v_max {v_max}: raise v_max or lower v_min")
