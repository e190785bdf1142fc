"""MLPPasses: the passes of an MLP in the fused learner, and the layers that it supports."""

import itertools
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from fastdqn.learning import fused_kernel, fused_passes
from fastdqn.learning.cnn_torsos import MinAtarCNN
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_kernel import BLOCK, IN, OUT, OUTPUT
from fastdqn.learning.fused_learner import aligned, end_of, gradient_scratch, layer_table
from fastdqn.learning.networks import (
    FARTHEST,
    MLP,
    Affine,
    DuelingHead,
    PlainHead,
    QNetwork,
    StreamsHead,
)
from fastdqn.learning.noisy import NoisyLinear
from fastdqn.learning.random_inputs import Draw

NO_ROWS = np.zeros((0, 0), np.float32)


class NetworkPasses(Protocol):
    """Passes of a batch through a network, forward and backward.

    Attributes:
        layers: int64[L, 8], all layers, see fused_kernel.py.
        noisy: int64[L, 4], their noise, see fused_passes.add_noise().
        num_actions: A.
    """

    layers: np.ndarray
    noisy: np.ndarray
    num_actions: int

    def allocate(self, blocks: int) -> None:
        """Allocates memory for at most this many blocks in a batch; backward() needs all."""
        ...

    def forward(
        self, weights, obs, scale, draw: Draw, slot: int, *, keeps=False, of_rows=NO_ROWS
    ) -> np.ndarray:
        """Returns outputs [blocks, Z * (D + A) * BLOCK], valid until the next pass in that slot.

        Args:
            weights: float32[P], flat, with noise that all samples share.
            obs: float32[B, F] or uint8[B, F].
            scale: Factor of observations.
            draw: Random inputs of the pass, of which the noise is not used.
            slot: 0 or 1, the memory of the outputs.
            keeps: Whether backward() follows; then slot must be 0.
            of_rows: float32[B, D], noise of each sample; then backward() cannot follow.
        """
        ...

    def backward(self, weights, outputs, gradient) -> None:
        """Writes the gradient of all layers' weights and biases to gradient [P].

        outputs hold the gradient of the outputs of the last pass with keeps; they are overwritten.
        """
        ...


class MLPPasses:
    """NetworkPasses of an MLP, whose head reads its features.

    A pass is one kernel. HeadPasses with an MLPTorso gives equal bits, but an update takes 2 to
    15 % more processor time (batches of 32 to 128, layers of 64 to 120).

    Args:
        online: The online network.
        torso, head: Layers in order.
        dueling: D, the output rows before those of the actions, for each of Z values.
        per_action: Z.
    """

    def __init__(
        self, online: FlatParameters, torso: list[Any], head: list[Any], dueling: int, per_action=1
    ):
        self.layers = layer_table([*torso, *head], online)
        self.noisy = noise_table([*torso, *head], online)
        self._factors, self._varied = noise_scratch(self.layers, self.noisy)
        self.num_actions = int(self.layers[-1, OUT]) // per_action - dueling
        self._shape = per_action, dueling
        self._output = int(self.layers[-1, OUTPUT])

    def allocate(self, blocks: int) -> None:
        self._slots = [aligned(blocks, end_of(self.layers)) for _ in range(2)]
        self._scratch = gradient_scratch(blocks)

    def forward(
        self, weights, obs, scale, draw: Draw, slot: int, *, keeps=False, of_rows=NO_ROWS
    ) -> np.ndarray:
        x = self._slots[slot][: -(-len(obs) // BLOCK)]
        fused_passes.forward(
            self.layers, weights, obs, scale, x, *self._shape, self.noisy, of_rows,
            self._factors, self._varied,
        )  # fmt: skip
        return x[:, self._output :]

    def backward(self, weights, outputs, gradient) -> None:
        fused_kernel.backpropagate(self.layers, weights, self._slots[0], *self._scratch, gradient)


class Layers(NamedTuple):
    """The dense layers of a network.

    Attributes:
        torso: Those of the torso; of MinAtarCNN its convolution.
        embedding: That of an ImplicitHead, or none.
        chains: Those of the head: one chain, or those of its value stream and advantage stream.
    """

    torso: list[Any]
    embedding: list[Any]
    chains: list[list[Any]]

    def all(self) -> list[Any]:
        return [*self.torso, *self.embedding, *itertools.chain(*self.chains)]


def family_layers(network: Any) -> Layers:
    """Returns the layers of a network; raises ValueError if they are not supported."""
    if type(network) is not QNetwork or type(network.torso) not in (MLP, MinAtarCNN):
        raise ValueError(
            "the fused update supports fastdqn's MLP and MinAtar's torso only, not another torso"
        )
    head: Any = inner_head(network)
    if type(head) not in (PlainHead, DuelingHead, StreamsHead):
        raise ValueError("the fused update supports plain and dueling heads only")
    if getattr(head, "gradient_scale", 1.0) != 1.0:
        raise ValueError("the fused update does not support a gradient scale of dueling streams")
    chains = [head.value, head.advantage] if type(head) is StreamsHead else [head]
    if any(getattr(each, "activation", "relu") != "relu" for each in (network.torso, *chains)):
        raise ValueError("the fused update supports the activation relu only")
    return Layers(
        [each for each in network.torso.modules() if type(each) is nn.Linear],
        [] if head is network.head else [network.head.embedding],
        [
            [*each.hidden, each.streams if type(each) is DuelingHead else each.values]
            for each in chains
        ],
    )


def inner_head(network: Any) -> Any:
    """Returns the head of a network, without an ImplicitHead around it."""
    return getattr(network.head, "head", network.head)


class Network:
    """The weights of a network, and its view of observations, as arrays.

    Attributes:
        weights: float32[P], flat.
    """

    def __init__(self, network: FlatParameters):
        module: Any = network.module
        self.weights = network.weights.numpy()
        self._scale, self._statistics = np.float32(module.obs_scale), None
        if hasattr(module.statistics, "obs_mean"):
            self._statistics = tuple(
                each.numpy().reshape(-1)
                for each in (module.statistics.obs_mean, module.statistics.obs_deviation)
            )

    def normalized(self, obs: np.ndarray) -> tuple[np.ndarray, np.float32]:
        """Returns observations [B, F] as the network sees them, and their remaining factor."""
        if self._statistics is None:
            return obs, self._scale
        mean, deviation = self._statistics
        return np.clip((obs - mean) / deviation, -FARTHEST, FARTHEST), np.float32(1.0)


def noise_scratch(layers: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Allocates factors and varied for fused_passes.through_noisy_layers()."""
    ends = np.where(noisy[:, 0] >= 0, noisy[:, 3] + layers[:, OUT], 0)
    varied = np.zeros((2, int(layers[:, [IN, OUT]].max()) * BLOCK), np.float32)
    return np.zeros(int(ends.max()) * BLOCK, np.float32), varied


def noise_table(dense: list[Any], online: FlatParameters) -> np.ndarray:
    """Returns int64[L, 4], see fused_passes.add_noise()."""
    start, rows = online.weights.data_ptr(), []
    for layer in dense:
        if type(layer) in (nn.Linear, Affine):
            rows.append([-1, -1, -1, -1])
            continue
        assert isinstance(layer, NoisyLinear)
        begins = [(each.data_ptr() - start) // 4 for each in (layer.weight_sigma, layer.bias_sigma)]
        rows.append([*begins, layer._input.start, layer._output.start])
    return np.array(rows, np.int64)
