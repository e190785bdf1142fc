"""HeadPasses: the passes of a torso and a head that reads its features, in the fused learner."""

from typing import Any

import numpy as np

from fastdqn.learning import fused_passes
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_kernel import BLOCK, IN, INNER, OUT, OUTPUT
from fastdqn.learning.fused_learner import aligned, end_of, gradient_scratch, layer_table
from fastdqn.learning.fused_mlp import NO_ROWS, Layers, noise_scratch, noise_table
from fastdqn.learning.fused_torsos import Torso
from fastdqn.learning.random_inputs import Draw


class HeadPasses:
    """NetworkPasses of a head after any torso of the family.

    Args:
        online: The online network.
        layers: Its layers.
        torso: Its torso.
        dueling: D, the output rows before those of the actions, for each of Z values.
        per_action: Z.
    """

    def __init__(
        self, online: FlatParameters, layers: Layers, torso: Torso, dueling: int, per_action: int
    ):
        self._torso = torso
        self._head, of_value = head_table(layers.chains, online, torso.at_features)
        inner = self._head[:, INNER].astype(bool)
        self._readers, self._rest = self._head[~inner], self._head[inner]
        self.layers = np.concatenate([torso.layers, self._head])
        self.noisy = noise_table(layers.all(), online)
        self._noisy_head = self.noisy[len(torso.layers) :]
        self._factors, self._varied = noise_scratch(self._head, self._noisy_head)
        self.num_actions = int(self._head[-1, OUT]) // per_action - dueling
        self._shape = per_action, dueling, of_value
        self._output = int(self._head[-1, OUTPUT])

    def allocate(self, blocks: int) -> None:
        self._slots = [aligned(blocks, end_of(self._head)) for _ in range(2)]
        self._slopes = aligned(int(self._head[0, IN]) * BLOCK)
        self._scratch = gradient_scratch(blocks)

    def forward(
        self, weights, obs, scale, draw: Draw, slot: int, *, keeps=False, of_rows=NO_ROWS
    ) -> np.ndarray:
        x = self._slots[slot][: -(-len(obs) // BLOCK)]
        self._torso.forward(weights, obs, scale, x)
        fused_passes.forward_head(
            self._head, self._readers, self._rest, weights, x, *self._shape, self._noisy_head,
            of_rows, self._factors, self._varied,
        )  # fmt: skip
        return x[:, self._output :]

    def backward(self, weights, outputs, gradient) -> None:
        per_action, _, of_value = self._shape
        fused_passes.backward_head(
            self._readers, self._rest, weights, self._slots[0], self._output,
            (per_action, self.num_actions, of_value), self._slopes, *self._scratch, gradient,
        )  # fmt: skip
        self._torso.backward(weights, self._slots[0], *self._scratch, gradient)


def head_table(
    chains: list[list[Any]], online: FlatParameters, begin: int = 0
) -> tuple[np.ndarray, int]:
    """Returns the layers of a head, and where the outputs of a separate value stream begin, or -1.

    Streams read the same input. The advantage stream is the last, so that its outputs are, too.
    """
    table = layer_table(chains[0], online, begin)
    if len(chains) == 1:
        return table, -1
    advantage = layer_table(chains[1], online, begin, beside=table)
    return np.concatenate([table, advantage]), int(table[-1, OUTPUT])
