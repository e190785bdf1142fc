"""QNetwork: torso and head, from observations to outputs for each action."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.learning.cast_torso import CastTorso
from fastdqn.learning.cnn_torsos import MinAtarCNN, PictureCNN
from fastdqn.learning.joined_layers import JoinedLayers, can_join
from fastdqn.learning.random_inputs import MEANS, Draw

# Input and output sizes to a module that takes (x [B, *, in], noise or None).
LayerConstructor = Callable[[int, int], nn.Module]
# Activations of hidden layers, by name. Convolutions always use ReLU.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "leaky-relu": functional.leaky_relu,
}
# Limit of normalized observations, in standard deviations: clip_obs of Stable-Baselines3.
FARTHEST = 10.0


class MLP(nn.Module):
    """Flattens [B, *] and applies Linear and an activation for each of hidden_sizes.

    Args:
        num_inputs: Number of features of an observation.
        hidden_sizes: Sizes of the layers.
        activation: A name in ACTIVATIONS.

    Raises:
        ValueError: The activation is unknown.
    """

    def __init__(self, num_inputs: int, hidden_sizes: tuple[int, ...], *, activation: str = "relu"):
        super().__init__()
        function = _activation_function(activation)
        self.activation = activation
        sizes = (num_inputs, *hidden_sizes)
        self.num_features = sizes[-1]
        layers = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            applied = nn.ReLU(inplace=True) if activation == "relu" else _Activation(function)
            layers += [nn.Linear(fan_in, fan_out), applied]
        self.layers = nn.Sequential(*layers)

    def forward(self, obs: Tensor) -> Tensor:
        # Not len(obs): torch.export would fix the batch size to that number.
        return self.layers(obs.reshape(obs.shape[0], -1))


class _Activation(nn.Module):
    """An activation as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class Affine(nn.Module):
    """nn.Linear with the signature of noisy layers; the noise is ignored."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        layer = nn.Linear(fan_in, fan_out)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Outputs(NamedTuple):
    """Output sizes of a head: A actions with Z values each, or one value if Z is None."""

    num_actions: int
    per_action: int | None = None

    def shaped(self, of_action: int) -> nn.Module:
        """Returns a module that reshapes to [*, of_action] or [*, Z, of_action]."""
        if self.per_action is None:
            return nn.Identity()
        return nn.Unflatten(-1, (self.per_action, of_action))


class PlainHead(nn.Module):
    """Hidden layers and an output layer, from [B, *, F] to [B, *, A] or [B, *, Z, A].

    Args:
        num_features: F.
        outputs: Output sizes.
        layer: Creates a layer.
        hidden_sizes: Sizes of the hidden layers.
        activation: Activation of the hidden layers, a name in ACTIVATIONS.

    Raises:
        ValueError: The activation is unknown.
    """

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
        *,
        activation: str = "relu",
    ):
        super().__init__()
        self.activation, self.activate = activation, _activation_function(activation)
        self.hidden, num_features = _hidden_layers(num_features, hidden_sizes, layer)
        self.values = layer(num_features, outputs.num_actions * (outputs.per_action or 1))
        self.shape = outputs.shaped(outputs.num_actions)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        for layer in self.hidden:
            features = self.activate(layer(features, draw.noise))
        return self.shape(self.values(features, draw.noise))


class DuelingHead(nn.Module):
    """Dueling head with shared hidden layers: Q = V + A - mean(A), for each of Z values.

    Both streams are one matrix product. Their sum is linear, so it is another product with a
    constant matrix. That takes two operations forward and two back, instead of eight for slices, a
    mean and two sums. Shapes are those of PlainHead.

    Source: Wang et al. 2016 (arXiv 1511.06581), equation 9.

    Args:
        num_features: F.
        outputs: Output sizes.
        layer: Creates a layer.
        hidden_sizes: Sizes of the hidden layers.
        gradient_scale: Factor of the gradient from the streams to the shared layers; section 4.2
            of the paper uses 1/sqrt(2).
        activation: Activation of the hidden layers, a name in ACTIVATIONS.

    Raises:
        ValueError: The activation is unknown.
    """

    combine: Tensor  # [1 + A, A], a row of ones above the centering matrix

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
        gradient_scale: float = 1.0,
        *,
        activation: str = "relu",
    ):
        super().__init__()
        self.gradient_scale = gradient_scale
        num_actions = outputs.num_actions
        self.activation, self._activate = activation, _activation_function(activation)
        self.hidden, num_features = _hidden_layers(num_features, hidden_sizes, layer)
        self.streams = layer(num_features, (1 + num_actions) * (outputs.per_action or 1))
        self.shape = outputs.shaped(1 + num_actions)
        self.register_buffer("combine", dueling_matrix(num_actions), persistent=False)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        for layer in self.hidden:
            features = self._activate(layer(features, draw.noise))
        features = scale_gradient(features, self.gradient_scale)
        # [*, 1 + A] to [*, A]
        return self.shape(self.streams(features, draw.noise)) @ self.combine


class StreamsHead(nn.Module):
    """Dueling head whose streams have their own hidden layers, for convolutional torsos.

    Shapes and activation are those of PlainHead, gradient_scale is that of DuelingHead. Sources:
    Wang et al. 2016 (arXiv 1511.06581), equation 9 and figure 1; with noisy layers Hessel et al.
    2018 (arXiv 1710.02298).
    """

    joined: Sequence[JoinedLayers] = ()
    _centering: Tensor  # [A, A], subtracts the mean

    def __init__(
        self,
        num_features: int,
        outputs: Outputs,
        layer: LayerConstructor = Affine,
        hidden_sizes: tuple[int, ...] = (),
        gradient_scale: float = 1.0,
        *,
        activation: str = "relu",
    ):
        super().__init__()
        self.gradient_scale, self.num_actions = gradient_scale, outputs.num_actions
        one = Outputs(1, outputs.per_action)
        self.value, self.advantage = (
            PlainHead(num_features, each, layer, hidden_sizes, activation=activation)
            for each in (one, outputs)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies compute each stream by itself, until join_streams(): their parameters may move."""
        return {k: v for k, v in self.__dict__.items() if k not in ("joined", "_centering")}

    def join_streams(self) -> None:
        """Computes the hidden layers of both streams together; their parameters have to be final.

        On a GPU this takes half the kernels. On a CPU it would only change the rounding.
        """
        pairs = list(zip(self.value.hidden, self.advantage.hidden, strict=True))
        joins = self.value.values.weight.is_cuda and all(can_join(*pair) for pair in pairs)
        self.joined = [JoinedLayers(pair) for pair in pairs] if joins else []
        weight: Any = self.value.values.weight
        self._centering = dueling_matrix(self.num_actions)[1:].to(weight.device)

    def forward(self, features: Tensor, draw: Draw = MEANS) -> Tensor:
        features = scale_gradient(features, self.gradient_scale)
        if self.joined and (draw.noise is None or len(draw.noise) == 1):
            return self._forward_joined(features, draw)
        assert not (self.joined and torch.is_grad_enabled()), "the joined layers get no gradient"
        advantage = self.advantage(features, draw)
        return self.value(features, draw) + (advantage - advantage.mean(-1, keepdim=True))

    def _forward_joined(self, features: Tensor, draw: Draw) -> Tensor:
        x = features.reshape(-1, features.shape[-1]).T.expand(2, -1, -1)
        for layer in self.joined:
            x = self.value.activate(layer(x, draw.noise))
        value, advantage = (
            stream.shape(stream.values(each.T, draw.noise)).unflatten(0, features.shape[:-1])
            for stream, each in zip((self.value, self.advantage), x, strict=True)
        )
        # The value is not a part of the product, which may round its factors to TF32.
        return value + advantage @ self._centering


def dueling_matrix(num_actions: int) -> Tensor:
    """Returns [1 + A, A]: a row of ones above the matrix that subtracts the mean.

    A value and A advantages times this matrix are the A values of actions.
    """
    # Not torch.eye(), which on the meta device imports the compiler.
    combine = torch.full((1 + num_actions, num_actions), -1.0 / num_actions)
    combine[1:].diagonal().add_(1.0)
    combine[0].fill_(1.0)
    return combine


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Returns x; its gradient is multiplied by scale in the backward pass."""
    if scale == 1.0:
        return x
    constant = x.detach()
    return constant + scale * (x - constant)  # the difference is 0, so the value is unchanged


def _activation_function(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _hidden_layers(
    num_features: int, hidden_sizes: tuple[int, ...], layer: LayerConstructor
) -> tuple[nn.ModuleList, int]:
    """Returns the layers and the number of output features."""
    sizes = (num_features, *hidden_sizes)
    return nn.ModuleList(layer(*pair) for pair in itertools.pairwise(sizes)), sizes[-1]


class Statistics(nn.Module):
    """Normalization statistics as buffers, so that target copies and saved weights include them.

    Attributes:
        obs_mean: [*], only with observation normalization.
        obs_deviation: [*], standard deviation, only with observation normalization.
        return_deviation: [1], standard deviation of the discounted return, by which rewards were
            divided; only with reward normalization.
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
        return ((obs - self.obs_mean) / self.obs_deviation).clamp(-FARTHEST, FARTHEST)


class QNetwork(nn.Module):
    """A torso and a head after the scaling of stored observations.

    Args:
        torso: From float32[B, *] to features [B, F].
        head: From [B, F] and a Draw to outputs for each action.
        obs_scale: Factor of stored observations, 1/255 for bytes.
        statistics: Normalizes observations instead of obs_scale, if it has statistics of them.
    """

    cast: CastTorso | None = None  # with the weights of the torso in another dtype

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

    def __getstate__(self) -> dict[str, Any]:
        """Copies have no cast torso, until cast_once(): their parameters may move."""
        return {name: value for name, value in self.__dict__.items() if name != "cast"}

    def cast_once(self) -> None:
        """Keeps a copy of the torso in its dtype, if that is another one; it has to be refreshed.

        The parameters have to be final, in one flat tensor. Torsos of the user's are left to
        autocast, which keeps some of their operations in float32.
        """
        dtype, own = self._torso_dtype, type(self.torso) in (MLP, PictureCNN, MinAtarCNN)
        casts = dtype is not None and own and len(list(self.torso.parameters())) > 0
        self.cast = CastTorso(self.torso, dtype) if casts and dtype is not None else None

    def compute_in(self, torso_dtype: torch.dtype | None, layout: torch.memory_format) -> None:
        """Sets dtype and memory format of the torso; the head stays float32.

        Args:
            torso_dtype: Dtype of the torso's matrix products; None stands for float32.
            layout: Memory format of observations.
        """
        self._torso_dtype, self._layout = torso_dtype, layout

    def forward(self, obs: Tensor, draw: Draw = MEANS, *, converted: bool = False) -> Tensor:
        """Returns the outputs for stored observations, or for inputs() of them if converted."""
        inputs = obs if converted else self.inputs(obs)
        if self._torso_dtype is None:
            return self.head(self.torso(inputs), draw)
        # No cache of cast weights, since it would outlast the pass and updates change the weights.
        torso = self.torso if self.cast is None else self.cast.torso
        with torch.autocast(inputs.device.type, self._torso_dtype, cache_enabled=False):
            features = torso(inputs)
        return self.head(features.to(torch.float32), draw)

    @property
    def shares_inputs(self) -> bool:
        """Whether inputs() are the same of all copies of the network, and no pass changes them."""
        return not self._normalizes and type(self.torso) in (MLP, PictureCNN, MinAtarCNN)

    def inputs(self, obs: Tensor) -> Tensor:
        """Returns the inputs of the torso for stored observations, in its dtype."""
        stored = obs
        dtype = torch.float32
        if self.cast is not None and self._torso_dtype is not None and not self._normalizes:
            dtype = self._torso_dtype
        as_written = obs.is_cuda and not torch.compiler.is_compiling()
        if as_written and self.obs_scale != 1.0 and not self._normalizes:
            # One kernel instead of two. On the CPU it is slower, and a compiler fuses them anyway.
            scaled = torch.empty_like(obs, dtype=dtype, memory_format=self._layout)
            return torch.mul(obs, self.obs_scale, out=scaled)
        obs = obs.to(dtype, memory_format=self._layout)
        if self._normalizes and self.statistics is not None:
            return self.statistics(obs)
        if self.obs_scale == 1.0:
            return obs
        # In place if obs is a copy: fresh memory pages cost more than the multiplication.
        return obs * self.obs_scale if obs is stored else obs.mul_(self.obs_scale)


def count_features(torso: nn.Module, obs_shape: tuple[int, ...]) -> int:
    """Returns F, the number of features of a torso, found by a forward pass with two zeros.

    Raises:
        ValueError: The torso rejects float32[B, *obs_shape] or does not return [B, F].
    """
    shape = f"[{', '.join(map(str, ('B', *obs_shape)))}]"
    try:
        with torch.no_grad():
            features = torso(torch.zeros(2, *obs_shape, dtype=torch.float32))
    except Exception as error:  # user code may raise anything
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise ValueError(
            f"the torso rejects observations, which it receives as float32 {shape}: {reason}"
        ) from None
    well = isinstance(features, Tensor) and features.ndim == 2 and len(features) == 2
    if not well or features.shape[1] < 1 or features.dtype != torch.float32:
        given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"the torso must return float32 features [B, F], but returned {given} for B = 2"
        )
    return features.shape[1]


def initialized(torso: nn.Module, obs_shape: tuple[int, ...]) -> nn.Module:
    """Returns the torso, or a copy with its lazy modules initialized for [B, *obs_shape].

    Raises:
        ValueError: As count_features().
    """
    if not any(map(nn.parameter.is_lazy, (*torso.parameters(), *torso.buffers()))):
        return torso
    with torch.random.fork_rng(devices=[]):
        torso = copy.deepcopy(torso)
        count_features(torso, obs_shape)
    return torso
