"""TorchOptimizer: any optimizer of torch.optim whose state starts at zero, on one flat tensor.

Constructing one imports the compiler stack of torch, which takes about a second.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, RAdam

from fastdqn.learning.optimizer import Optimizer


class TorchOptimizer(Optimizer):
    """Adapts a torch.optim class to flat weights, with a state that exists from the start.

    torch creates the state in the first step, which a captured update and a checkpoint cannot wait
    for. So the constructor takes a step of other weights, all zero, without a gradient, and sets
    the state to zero again. On CUDA only classes with the argument `capturable` can be recorded as
    a graph. On the CPU a step reads the learning rate on the host.

    Args:
        optimizer_class: A subclass of torch.optim.Optimizer.
        weights: float32[P], updated in place.
        gradient: float32[P].
        learning_rate: Initial value of a device scalar, which a captured update reads at each call.
        settings: More arguments of the class.

    Raises:
        ValueError: The state of the class does not start at zero, or has numbers on the host.
    """

    def __init__(
        self,
        optimizer_class: Any,
        weights: Tensor,
        gradient: Tensor,
        learning_rate: float,
        **settings: Any,
    ):
        self.weights, self.gradient = weights, gradient
        self.learning_rate = torch.tensor(learning_rate, device=weights.device)
        if weights.is_cuda and "capturable" in inspect.signature(optimizer_class).parameters:
            settings["capturable"] = True
        # Zeros, so that weight decay adds nothing to the state.
        parameter = torch.zeros_like(weights)
        parameter.grad = torch.zeros_like(gradient)
        self._optimizer = optimizer_class([parameter], lr=learning_rate, **settings)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._state = self._zeroed_state(parameter)
        parameter.data, parameter.grad = weights.detach(), gradient

    def step(self) -> None:
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that the next step depends on, without weights and gradient."""
        return {"learning_rate": self.learning_rate, **self._state}

    def _zeroed_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self._optimizer.state[parameter]
        found = {name: value for name, value in state.items() if value is not None}
        for name, value in found.items():
            kind = type(self._optimizer).__name__
            if not isinstance(value, Tensor):
                raise ValueError(f"{kind} keeps {name} as a number, must be a tensor")
            if name != "step" and value.count_nonzero():
                raise ValueError(f"{name} of {kind} does not start at zero, must start at zero")
            value.zero_()
        return found


def adamw(
    weights: Tensor,
    gradient: Tensor,
    learning_rate: float,
    adam_epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> TorchOptimizer:
    """Returns AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101). Decay includes biases.

    Args:
        weights: float32[P], updated in place.
        gradient: float32[P].
        learning_rate: Initial value of a device scalar.
        adam_epsilon: Added to the root of the second moment.
        weight_decay: Times the learning rate, the share of each weight that a step removes.
    """
    settings = {"eps": adam_epsilon, "weight_decay": weight_decay}
    return TorchOptimizer(AdamW, weights, gradient, learning_rate, **settings)


def radam(
    weights: Tensor, gradient: Tensor, learning_rate: float, adam_epsilon: float = 1e-8
) -> TorchOptimizer:
    """Returns RAdam, Adam with a rectified variance (Liu et al. 2020, arXiv 1908.03265).

    Args:
        weights: float32[P], updated in place.
        gradient: float32[P].
        learning_rate: Initial value of a device scalar.
        adam_epsilon: Added to the root of the second moment.
    """
    return TorchOptimizer(RAdam, weights, gradient, learning_rate, eps=adam_epsilon)
