"""FusedStep: the gradient step of an MLP on the CPU by one kernel instead of autograd."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.kernels.matmul import COLUMNS, LANES
from fastdqn.learning import fused_kernel
from fastdqn.learning.adam import Adam
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import MLP, Affine, DuelingHead, PlainHead, QNetwork
from fastdqn.learning.random_inputs import NO_INPUTS, Passes
from fastdqn.learning.value import ScalarValue, huber, squared_error
from fastdqn.replay.batch import Batch

# Factor of the error in the gradient, and the error beyond which the gradient is constant.
LOSSES = {squared_error: (2.0, np.inf), huber: (1.0, 1.0)}
NO_MASK = np.ones((0, 0), np.bool_)


class FusedStep:
    """Takes the gradient step of a learner with a compiled kernel.

    Supported are MLPs on the CPU with a plain or dueling head of scalar values. The learner's
    tensors are used in place. All other memory is allocated with the first batch of a size.

    Args:
        learner: The learner.

    Raises:
        ValueError: The learner is not supported; names the part.
    """

    def __init__(self, learner: Learner):
        network: Any = learner.online.module
        if learner.average is not None:  # the kernel has no place for it
            raise ValueError("the fused update of one kernel does not support several ranks")
        if type(learner.backup) not in (DoubleBackup, MaxBackup):
            raise ValueError(f"the fused update does not support {type(learner.backup).__name__}")
        if type(learner.value) is not ScalarValue:
            raise ValueError(f"the fused update does not support {type(learner.value).__name__}")
        dense = dense_layers(network)
        if getattr(network.head, "gradient_scale", 1.0) != 1.0:
            raise ValueError(
                "the fused update does not support a gradient scale of dueling streams"
            )
        element_loss: Any = learner.value.element_loss
        if element_loss not in LOSSES:
            raise ValueError("the fused update supports the losses mse and huber only")
        slope, bend = LOSSES[element_loss]
        self._learner = learner
        self._layers = layer_table(dense, learner.online)
        self._choices = (
            type(learner.backup) is DoubleBackup, int(type(network.head) is DuelingHead),
            np.float32(network.obs_scale), np.float32(slope), np.float32(bend),
        )  # fmt: skip
        self._flat = (
            learner.online.weights.numpy(), learner.target.weights.numpy(),
            learner.online.gradient.numpy(),
        )  # fmt: skip
        self._adam = adam_of(learner)
        self._loss_sum = learner.loss_sum.numpy().reshape(1)
        self._batch: Batch | None = None
        self._converted: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, batch: Batch, passes: Passes = NO_INPUTS) -> Tensor:
        """Takes the step; returns priorities [B], which the next step overwrites."""
        if batch is not self._batch:
            self._adopt(batch)
        for kept, given in self._converted:
            np.copyto(kept, given, casting="unsafe")
        fused_kernel.update(
            self._layers, *self._flat, *self._adam, *self._inputs, *self._scratch,
            self._loss_sum, *self._choices,
        )  # fmt: skip
        self._learner.taken = self._taken
        return self._priority

    def _adopt(self, batch: Batch) -> None:
        """Prepares the arrays of a batch; a training loop reuses the same batch."""
        size, before = len(batch.action), self._batch
        self._batch = None  # if this is interrupted, the next update starts over
        if before is None or size != len(before.action):
            self._priority, self._taken = torch.zeros(2, size)
            blocks, width = -(-size // fused_kernel.BLOCK), end_of(self._layers)
            self._scratch = (
                self._priority.numpy(), self._taken.numpy(), aligned(blocks, width),
                aligned(width), *gradient_scratch(blocks),
            )  # fmt: skip
        self._converted = []
        obs, next_obs = (self._as_float(each.numpy()) for each in (batch.obs, batch.next_obs))
        mask = NO_MASK if batch.next_mask is None else batch.next_mask.numpy()
        self._inputs = (
            obs, batch.action.numpy(), batch.reward.numpy(), batch.discount.numpy(), next_obs,
            batch.weight.numpy(), mask,
        )  # fmt: skip
        self._batch = batch

    def _as_float(self, stored: np.ndarray) -> np.ndarray:
        """Returns float32[B, F]: the array itself, or memory to convert it to at each step."""
        if stored.dtype == np.float32 and stored.flags.c_contiguous:
            return stored.reshape(len(stored), -1)
        converted = np.empty(stored.shape, np.float32)
        self._converted.append((converted, stored))
        return converted.reshape(len(stored), -1)


def dense_layers(network: Any) -> list[Any]:
    """Returns the layers of an MLP and its head, in order; raises ValueError if unsupported."""
    if type(network) is not QNetwork or type(network.torso) is not MLP:
        raise ValueError("the fused update supports fastdqn's MLP only, not another torso")
    if hasattr(network.statistics, "obs_mean"):
        raise ValueError("the fused update does not support observation normalization")
    head: Any = network.head
    if type(head) not in (PlainHead, DuelingHead) or type(head.shape) is not nn.Identity:
        raise ValueError("the fused update supports plain and dueling heads of scalar values only")
    for part in (network.torso, head):
        if part.activation != "relu":
            raise ValueError(f"the fused update supports ReLU only, not {part.activation}")
    last = head.streams if type(head) is DuelingHead else head.values
    layers = [each for each in network.torso.layers if type(each) is nn.Linear]
    layers += [*head.hidden, last]
    if any(type(layer) not in (nn.Linear, Affine) for layer in layers):
        raise ValueError("the fused update does not support noisy layers")
    return layers


def layer_table(
    dense: list[Any], online: FlatParameters, begin: int = 0, *, ends_in_relu: bool = False,
    beside: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Returns a chain of layers, int64[L, 8], see fused_kernel.py.

    Args:
        dense: The layers, each of which reads the output of the one before.
        online: The network.
        begin: Offset of the first input in the activations.
        ends_in_relu: Whether a ReLU follows the last layer, too.
        beside: Layers with the same first input, whose memory comes before that of the others.
    """
    rows, active = [], begin
    start = online.weights.data_ptr()
    for n, layer in enumerate(dense):
        outputs, features = layer.weight.shape
        begins = [(each.data_ptr() - start) // 4 for each in (layer.weight, layer.bias)]
        output = active + size_of(features)
        if n == 0 and beside is not None:
            output = end_of(beside)
        relu = ends_in_relu or n < len(dense) - 1
        rows.append([*begins, features, outputs, active, output, relu, n > 0])
        active = output
    return np.array(rows, np.int64).reshape(-1, 8)


def adam_of(learner: Learner) -> tuple:
    """Returns the last arguments of fused_kernel.descend(), from exp_avg on.

    Raises:
        ValueError: The optimizer is not Adam.
    """
    adam = learner.optimizer
    if not isinstance(adam, Adam):
        raise ValueError(f"the fused update supports Adam only, not {type(adam).__name__}")
    return (
        adam.exp_avg.numpy(), adam.exp_avg_sq.numpy(), adam.steps.numpy().reshape(1),
        adam.learning_rate.numpy().reshape(1), adam.betas, adam.epsilon,
        learner.max_grad_norm or 0.0,
    )  # fmt: skip


def gradient_scratch(blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Allocates transposed and last for fused_kernel.weight_gradient()."""
    return (
        aligned(blocks * fused_kernel.BLOCK * COLUMNS),
        aligned(fused_kernel.LAST_ROWS * COLUMNS),
    )


def aligned(*shape: int) -> np.ndarray:
    """Returns zeros, float32, that start on a cache line, as torch's memory does."""
    return torch.zeros(shape).numpy()


def end_of(layers: np.ndarray) -> int:
    """Returns the size of the activations of a block."""
    outputs, rows = layers[-1, [fused_kernel.OUTPUT, fused_kernel.OUT]]
    return int(outputs) + size_of(int(rows))


def size_of(rows: int) -> int:
    """Returns the size of a layer's input or output in the activations of a block: whole tiles."""
    return -(-rows // LANES) * LANES * fused_kernel.BLOCK
