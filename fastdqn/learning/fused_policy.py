"""FusedPolicy: greedy actions of an MLP on the CPU by one kernel instead of torch."""

from typing import Any

import numpy as np

from fastdqn.learning import fused_kernel
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_learner import NO_MASK, aligned, dense_layers, end_of, layer_table
from fastdqn.learning.networks import DuelingHead
from fastdqn.learning.random_inputs import MEANS, Draw


class FusedPolicy:
    """Selects greedy actions with the current weights, which it shares with the learner.

    Raises:
        ValueError: The network is not supported, as in FusedStep.
    """

    def __init__(self, online: FlatParameters):
        network: Any = online.module
        self._layers = layer_table(dense_layers(network), online)
        self._weights = online.weights.numpy()
        self._active = aligned(end_of(self._layers))
        self._choices = (int(type(network.head) is DuelingHead), np.float32(network.obs_scale))
        self._features = int(self._layers[0, fused_kernel.IN])
        self(np.empty((0, self._features), np.float32), None)  # compiles the kernel

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None, draw: Draw = MEANS) -> np.ndarray:
        """Returns int64[N] greedy actions for obs [N, *]; mask [N, A] is nonzero where allowed."""
        chosen = np.empty(len(obs), np.int64)
        numbers = np.ascontiguousarray(obs, np.float32).reshape(len(obs), self._features)
        allowed = NO_MASK if mask is None else np.ascontiguousarray(mask, np.bool_)
        fused_kernel.greedy_actions(
            self._layers, self._weights, numbers, allowed, self._active, *self._choices, chosen
        )
        return chosen
