"""Networks: an observation in, one output per action out; the torso may be anyone's module."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

LayerConstructor = Callable[[int, int], nn.Module]


class MLP(nn.Module):
    """Flattens [B, *] and applies Linear and ReLU for each of hidden_sizes."""

    def __init__(self, num_inputs: int, hidden_sizes: tuple[int, ...]):
        super().__init__()
        sizes = (num_inputs, *hidden_sizes)
        layers = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, obs: Tensor) -> Tensor:
        return self.layers(obs.reshape(len(obs), -1))


class PlainHead(nn.Module):
    """One linear layer: features [B, F] to values [B, A]."""

    def __init__(self, num_features: int, num_actions: int, layer: LayerConstructor = nn.Linear):
        super().__init__()
        self.values = layer(num_features, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        return self.values(features)


class DuelingHead(nn.Module):
    """Q = V + A - mean(A), both streams in one matrix product: [B, F] to [B, A].

    The sum is linear in the streams, so it is one more product, with a constant matrix: two
    operations forward and two back, where slices, a mean and two sums are eight.
    Wang et al. 2016 (arXiv 1511.06581), equation 9.
    """

    combine: Tensor  # [1 + A, A]: ones over the centring matrix

    def __init__(self, num_features: int, num_actions: int, layer: LayerConstructor = nn.Linear):
        super().__init__()
        self.streams = layer(num_features, 1 + num_actions)
        centre = torch.eye(num_actions) - 1.0 / num_actions
        combine = torch.cat((torch.ones(1, num_actions), centre))
        self.register_buffer("combine", combine, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.streams(features) @ self.combine  # [B, 1 + A] to [B, A]


class QNetwork(nn.Module):
    """torso and head behind the scaling of stored observations.

    torso  [B, *] float32 to features [B, F]; head  [B, F] to one output per action
    obs_scale  factor from the stored to the float observation (1/255 for bytes)
    """

    def __init__(self, torso: nn.Module, head: nn.Module, obs_scale: float = 1.0):
        super().__init__()
        self.torso, self.head, self.obs_scale = torso, head, obs_scale

    def forward(self, obs: Tensor) -> Tensor:
        obs = obs.to(torch.float32)
        if self.obs_scale != 1.0:
            obs = obs * self.obs_scale
        return self.head(self.torso(obs))


def count_features(torso: nn.Module, obs_shape: tuple[int, ...]) -> int:
    """Features F that torso makes of [B, *obs_shape] float32, found by a trial of two zeros.

    Raises ValueError, one line, where it does not take that shape or returns no [B, F].
    """
    try:
        with torch.no_grad():
            features = torso(torch.zeros(2, *obs_shape))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"the torso does not take observations of shape [B, {list(obs_shape)}]: {reason}"
        ) from None
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"the torso must return features [B, F]; for B = 2 it gave {shape}")
    return features.shape[1]
