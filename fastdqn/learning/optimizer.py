"""Optimizer: the interface of the objects that update the flat weights."""

from typing import Protocol

from torch import Tensor


class Optimizer(Protocol):
    """Updates one flat tensor of all weights in place, from one flat gradient.

    A class or function that makes one takes weights float32[P], gradient float32[P] and
    learning_rate, and other arguments by the names of options.

    Attributes:
        learning_rate: float32 scalar on the device, which each step reads anew.
        compiles: Whether torch.compile can trace step().
    """

    learning_rate: Tensor
    compiles: bool = False

    def step(self) -> None:
        """Takes a step. It reads nothing back to the host."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that the next step depends on, without weights and gradient.

        They exist from the start, and step() changes them in place.
        """
        ...
