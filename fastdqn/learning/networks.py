"""Networks: an observation in, one output per action out; the torso may be anyone's module."""

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.learning.random_inputs import MEANS, Draw

# Units in and out, to a module that takes (x [B, *, in], noise or None).
LayerConstructor = Callable[[int, int], nn.Module]
# Deviations from the mean that a normalised number may have: Stable-Baselines3's clip_obs.
_FARTHEST = 10.0


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
        # Not len(obs): a program that torch exports would take that many observations alone.
        return self.layers(obs.reshape(obs.shape[0], -1))


class Affine(nn.Module):
    """nn.Linear, called as noisy layers are: the noise means nothing to it."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        layer = nn.Linear(fan_in, fan_out)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Outputs(NamedTuple):
    """What a head gives: num_actions A, and for each of them per_action Z numbers, or one."""

    num_actions: int
    per_action: int | None = None

    def shaped(self, of_action: int) -> nn.Module:
        """Brings a layer's numbers into their form: [*, of_action], or [*, Z, of_action]."""
        if self.per_action is None:
            return nn.Identity()
        return nn.Unflatten(-1, (self.per_action, of_action))


class PlainHead(nn.Module):
    """Hidden layers with ReLU and a last one: features [B, *, F] to [B, *, A] or [B, *, Z, A]."""

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
    ):
        super().__init__()
        self.hidden, num_features = _hidden_layers(num_features, hidden_sizes, layer)
        self.values = layer(num_features, outputs.num_actions * (outputs.per_action or 1))
        self.shape = outputs.shaped(outputs.num_actions)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        for layer in self.hidden:
            features = functional.relu(layer(features, draw.noise))
        return self.shape(self.values(features, draw.noise))


class DuelingHead(nn.Module):
    """Q = V + A - mean(A), both streams in one matrix product, for each of Z numbers alike.

    The sum is linear in the streams, so it is one more product, with a constant matrix: two
    operations forward and two back, where slices, a mean and two sums are eight. Shapes are
    those of PlainHead. Wang et al. 2016 (arXiv 1511.06581), equation 9.

    gradient_scale  factor of the gradient that enters the shared layers from the streams;
                    section 4.2 of the paper has 1/sqrt(2)
    """

    combine: Tensor  # [1 + A, A]: ones over the centring matrix

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
        gradient_scale: float = 1.0,
    ):
        super().__init__()
        self.gradient_scale = gradient_scale
        num_actions = outputs.num_actions
        self.hidden, num_features = _hidden_layers(num_features, hidden_sizes, layer)
        self.streams = layer(num_features, (1 + num_actions) * (outputs.per_action or 1))
        self.shape = outputs.shaped(1 + num_actions)
        centre = torch.eye(num_actions) - 1.0 / num_actions
        combine = torch.cat((torch.ones(1, num_actions), centre))
        self.register_buffer("combine", combine, persistent=False)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        for layer in self.hidden:
            features = functional.relu(layer(features, draw.noise))
        features = scale_gradient(features, self.gradient_scale)
        # [*, 1 + A] to [*, A]
        return self.shape(self.streams(features, draw.noise)) @ self.combine


class StreamsHead(nn.Module):
    """Q = V + A - mean(A), each stream with hidden layers of its own: behind convolutions.

    Shapes are those of PlainHead, gradient_scale is that of DuelingHead. Wang et al. 2016 (arXiv
    1511.06581), equation 9, figure 1; with noisy layers Hessel et al. 2018 (arXiv 1710.02298).
    """

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
        gradient_scale: float = 1.0,
    ):
        super().__init__()
        self.gradient_scale = gradient_scale
        one = Outputs(1, outputs.per_action)
        self.value = PlainHead(num_features, one, layer, hidden_sizes)
        self.advantage = PlainHead(num_features, outputs, layer, hidden_sizes)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        features = scale_gradient(features, self.gradient_scale)
        advantage = self.advantage(features, draw)
        return self.value(features, draw) + (advantage - advantage.mean(-1, keepdim=True))


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself, whose gradient is multiplied by scale on its way back."""
    if scale == 1.0:
        return x
    constant = x.detach()
    return constant + scale * (x - constant)  # the difference is 0: the value keeps its bits


def _hidden_layers(
    num_features: int, hidden_sizes: tuple[int, ...], layer: LayerConstructor
) -> tuple[nn.ModuleList, int]:
    """The layers, and the number of features that the last one gives."""
    sizes = (num_features, *hidden_sizes)
    return nn.ModuleList(layer(*pair) for pair in itertools.pairwise(sizes)), sizes[-1]


class Statistics(nn.Module):
    """What normalisation goes by, as buffers: target copies, acting networks and saved weights
    have them too. Each is there only where it is asked for.

    obs_mean, obs_deviation [*] of each number of an observation; return_deviation [1] of the
    discounted return, which rewards were divided by
    """

    obs_mean: Tensor
    obs_deviation: Tensor
    return_deviation: Tensor

    def __init__(self, obs_shape: tuple[int, ...], of_obs: bool, of_returns: bool):
        super().__init__()
        if of_obs:
            self.register_buffer("obs_mean", torch.zeros(obs_shape))
            self.register_buffer("obs_deviation", torch.ones(obs_shape))
        if of_returns:
            self.register_buffer("return_deviation", torch.ones(1))

    def forward(self, obs: Tensor) -> Tensor:
        return ((obs - self.obs_mean) / self.obs_deviation).clamp(-_FARTHEST, _FARTHEST)


class QNetwork(nn.Module):
    """torso and head behind the scaling of stored observations.

    torso  [B, *] float32 to features [B, F]; head  [B, F] and a Draw to outputs per action
    obs_scale   factor from the stored to the float observation (1/255 for bytes)
    statistics  normalise observations in place of the factor, where they have any of them
    """

    def __init__(
        self,
        torso: nn.Module,
        head: nn.Module,
        obs_scale: float = 1.0,
        statistics: Statistics | None = None,
    ):
        super().__init__()
        self.torso, self.head, self.obs_scale = torso, head, obs_scale
        self.statistics = statistics
        self._normalizes = hasattr(statistics, "obs_mean")
        self._torso_dtype: torch.dtype | None = None
        self._layout = torch.preserve_format

    def compute_in(self, torso_dtype: torch.dtype | None, layout: torch.memory_format) -> None:
        """Let the torso's products be of another type than float32, None: of that, and lay
        observations out in another way. The head's numbers are values, and stay float32."""
        self._torso_dtype, self._layout = torso_dtype, layout

    def forward(self, obs: Tensor, draw: Draw = MEANS) -> Tensor:
        stored = obs
        obs = obs.to(torch.float32, memory_format=self._layout)
        if self._normalizes and self.statistics is not None:
            obs = self.statistics(obs)
        elif self.obs_scale != 1.0:
            # In place where it is a copy already: pages of fresh memory cost more than the product.
            obs = obs * self.obs_scale if obs is stored else obs.mul_(self.obs_scale)
        if self._torso_dtype is None:
            return self.head(self.torso(obs), draw)
        # No cache of cast weights: it would outlive the pass, and an update changes them.
        with torch.autocast(obs.device.type, self._torso_dtype, cache_enabled=False):
            features = self.torso(obs)
        return self.head(features.to(torch.float32), draw)


def count_features(torso: nn.Module, obs_shape: tuple[int, ...]) -> int:
    """Features F that torso makes of [B, *obs_shape] float32, found by a trial of two zeros.

    Raises ValueError, one line, where it does not take that shape or returns no [B, F].
    """
    shape = f"[{', '.join(map(str, ('B', *obs_shape)))}]"
    try:
        with torch.no_grad():
            features = torso(torch.zeros(2, *obs_shape, dtype=torch.float32))
    except Exception as error:  # a module of anyone's
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise ValueError(
            f"the torso does not fit: observations come to it as float32 {shape}, and it "
            f"says: {reason}"
        ) from None
    well = isinstance(features, Tensor) and features.ndim == 2 and len(features) == 2
    if not well or features.shape[1] < 1 or features.dtype != torch.float32:
        given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"the torso must return float32 features [B, F]; for B = 2 it gave {given}"
        )
    return features.shape[1]


def initialized(torso: nn.Module, obs_shape: tuple[int, ...]) -> nn.Module:
    """The torso, or a copy whose lazy modules have the sizes that [B, *obs_shape] gives them.

    Raises ValueError as count_features() does.
    """
    if not any(map(nn.parameter.is_lazy, (*torso.parameters(), *torso.buffers()))):
        return torso
    with torch.random.fork_rng(devices=[]):
        torso = copy.deepcopy(torso)
        count_features(torso, obs_shape)
    return torso
