"""FusedFamilyStep: the gradient step of an MLP on the CPU for the whole family, by kernels.

FusedStep is one kernel for the plain case. Here each stage is a kernel over the whole batch, so
that values, backups and noise combine freely. The stages are those of AutogradSteps: passes,
backup, target, loss, backward, clip and Adam.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.learning import fused_backups, fused_kernel, fused_passes
from fastdqn.learning.adam import Adam
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_categorical import FusedCategorical
from fastdqn.learning.fused_hl_gauss import FusedHLGauss
from fastdqn.learning.fused_kernel import BLOCK
from fastdqn.learning.fused_learner import NO_MASK, FusedStep, activations, layer_table, scratch
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.fused_quantile import FusedQuantile
from fastdqn.learning.fused_scalar import FusedScalar
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import (
    FARTHEST,
    MLP,
    Affine,
    DuelingHead,
    PlainHead,
    QNetwork,
)
from fastdqn.learning.noisy import NoisyLinear
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import MEANS, Draw, Passes
from fastdqn.learning.value import ScalarValue, Value
from fastdqn.replay.batch import Batch

FAMILY: dict[type, Any] = {
    ScalarValue: FusedScalar, CategoricalValue: FusedCategorical, QuantileValue: FusedQuantile,
    HLGaussValue: FusedHLGauss,
}  # fmt: skip
_NO_NOISE = np.zeros(0, np.float32)


def make_fused_step(learner: Learner, threads: int = 1) -> Any:
    """Returns FusedStep for a plain network and backup, else FusedFamilyStep. Raises ValueError."""
    if _is_plain(learner.online.module, learner.value) and type(learner.backup) in (
        DoubleBackup,
        MaxBackup,
    ):
        return FusedStep(learner, threads)
    return FusedFamilyStep(learner)


def make_fused_policy(online: FlatParameters, value: Value) -> Any:
    """Returns FusedPolicy for a plain network, else FusedFamilyPolicy. Raises ValueError."""
    return (
        FusedPolicy(online) if _is_plain(online.module, value) else FusedFamilyPolicy(online, value)
    )


def _is_plain(network: Any, value: Value) -> bool:
    """Returns whether a network has scalar values, and neither noise nor normalization."""
    noisy = any(type(each) is NoisyLinear for each in network.modules())
    return type(value) is ScalarValue and not noisy and not hasattr(network.statistics, "obs_mean")


class FusedFamilyPolicy:
    """Greedy actions of a network of the family by kernels, with the learner's weights.

    Raises:
        ValueError: The network is not supported, as in FusedFamilyStep.
    """

    def __init__(self, online: FlatParameters, value: Value):
        dense = family_layers(online.module)
        self._online, self._layers = online, layer_table(dense, online)
        head: Any = online.module.head
        dueling, per_action = int(type(head) is DuelingHead), value.outputs_per_action or 1
        num_actions = int(self._layers[-1, fused_kernel.OUT]) // per_action - dueling
        self._shape, self._num_actions = (per_action, dueling), num_actions
        self._value = FAMILY[type(value)](value, num_actions, dueling)
        self._one, self._output = activations(self._layers), fused_passes.output_of(self._layers)
        self._features = int(self._layers[0, fused_kernel.IN])
        self._x = np.zeros((0, len(self._one)), np.float32)

    def __call__(
        self, obs: np.ndarray, mask: np.ndarray | None, draw: Draw = MEANS
    ) -> np.ndarray | None:
        """Returns int64[N] greedy actions, or None for noise of each environment."""
        if draw.noise is not None:
            return None
        blocks = -(-len(obs) // BLOCK)
        if len(self._x) < blocks:
            self._x = np.tile(self._one, (blocks, 1))
            self._values = np.zeros((blocks, self._num_actions * BLOCK), np.float32)
            self._best = np.zeros((blocks, BLOCK), np.int64)
        numbers = np.ascontiguousarray(obs, np.float32).reshape(len(obs), self._features)
        numbers, scale = normalized(self._online.module, numbers)
        x, values = self._x[:blocks], self._values[:blocks]
        fused_passes.forward(
            self._layers, self._online.weights.numpy(), numbers, scale, x, *self._shape
        )
        self._value.expected(x[:, self._output :], values)
        allowed = NO_MASK if mask is None else np.ascontiguousarray(mask, np.bool_)
        fused_backups.select_best(values, allowed, self._num_actions, self._best[:blocks])
        return self._best[:blocks].reshape(-1)[: len(obs)].copy()


class FusedFamilyStep:
    """Takes the gradient step of a learner with compiled kernels.

    Supported are MLPs on the CPU with a plain or dueling head, noisy or not, of scalar,
    categorical or quantile values, and every built-in backup. The learner's tensors are used in
    place. All other memory is allocated with the first batch of a size.

    Args:
        learner: The learner.

    Raises:
        ValueError: The learner is not supported; names the part.
    """

    def __init__(self, learner: Learner):
        network, optimizer = learner.online.module, learner.optimizer
        if type(learner.backup) not in (DoubleBackup, MaxBackup, MunchausenBackup):
            raise ValueError(f"the fused update does not support {type(learner.backup).__name__}")
        if type(learner.value) not in FAMILY:
            raise ValueError(f"the fused update does not support {type(learner.value).__name__}")
        if not isinstance(optimizer, Adam):
            raise ValueError(f"the fused update supports Adam only, not {type(optimizer).__name__}")
        dense = family_layers(network)
        self._learner, self._layers = learner, layer_table(dense, learner.online)
        self._noisy = noise_table(dense, learner.online)
        head: Any = network.head
        self._dueling = int(type(head) is DuelingHead)
        self._per_action = learner.value.outputs_per_action or 1
        self._num_actions = int(self._layers[-1, fused_kernel.OUT]) // self._per_action
        self._num_actions -= self._dueling
        self._value = FAMILY[type(learner.value)](learner.value, self._num_actions, self._dueling)
        self._online, self._target = learner.online, learner.target
        self._weights = learner.online.weights.numpy()
        self._gradient = learner.online.gradient.numpy()
        self._adam = (
            optimizer.exp_avg.numpy(), optimizer.exp_avg_sq.numpy(),
            optimizer.steps.numpy().reshape(1), optimizer.learning_rate.numpy().reshape(1),
            optimizer.betas, optimizer.epsilon, learner.max_grad_norm or 0.0,
        )  # fmt: skip
        self._effective = np.empty_like(self._weights) if (self._noisy >= 0).any() else None
        self._batch: Batch | None = None

    def __call__(self, batch: Batch, passes: Passes) -> Tensor:
        """Takes the step; returns priorities [B], which the next step overwrites."""
        if batch is not self._batch:
            self._adopt(batch)
        for kept, given in self._converted:
            np.copyto(kept, given, casting="unsafe")
        learner = self._learner
        obs, next_obs, action, reward, discount, weight = self._inputs
        self._bootstrap(obs, next_obs, action, passes)
        self._value.aim(
            self._outputs_of(self._following), *self._choice, reward, discount
        )  # fmt: skip
        noise = self._forward(self._online, obs, passes.online_obs, self._active)
        loss = self._value.compare(
            self._outputs_of(self._active), action, weight, self._priority.numpy(),
            self._taken.numpy(),
        )  # fmt: skip
        weights = self._weights if self._effective is None else self._effective
        turned, sums = self._scratch
        fused_passes.backward(self._layers, weights, self._active, turned, sums)
        fused_kernel.collect(self._layers, sums, turned, self._gradient)
        if self._effective is not None:
            fused_passes.add_noise_gradients(self._gradient, self._noisy, self._layers, noise)
        fused_kernel.descend(self._weights, self._gradient, *self._adam)
        learner.loss_sum += loss / len(action)
        learner.taken = self._taken
        return self._priority

    def _bootstrap(self, obs, next_obs, action, passes) -> None:
        """Runs the passes that the backup asks for, and computes its weights of actions."""
        values, backup = self._values, self._learner.backup
        best, shares, entropy, bonus = self._choice
        if type(backup) is DoubleBackup:
            self._forward(self._online, next_obs, passes.online_next, self._active)
            self._value.expected(self._outputs_of(self._active), values)
        self._forward(self._target, next_obs, passes.target_next, self._following)
        if type(backup) is not DoubleBackup:
            self._value.expected(self._outputs_of(self._following), values)
        if not isinstance(backup, MunchausenBackup):
            fused_backups.bootstrap_greedily(
                values, self._masks[0], self._num_actions, best, shares
            )
            return
        self._forward(self._target, obs, passes.target_obs, self._active)
        self._value.expected(self._outputs_of(self._active), self._values_here)
        alpha, temperature, least = map(np.float32, backup.settings)
        fused_backups.bootstrap_softly(
            values, self._values_here, action, *self._masks, self._num_actions, alpha, temperature,
            least, self._log_policy, shares, entropy, bonus,
        )  # fmt: skip

    def _forward(self, network: FlatParameters, obs, draw: Draw, x: np.ndarray) -> np.ndarray:
        """Runs a pass into x; returns its noise."""
        noise, weights = _NO_NOISE, network.weights.numpy()
        obs, scale = normalized(network.module, obs)
        if self._effective is not None:
            noise = draw.noise.numpy().reshape(-1)
            fused_passes.add_noise(weights, self._noisy, self._layers, noise, self._effective)
            weights = self._effective
        fused_passes.forward(self._layers, weights, obs, scale, x, self._per_action, self._dueling)
        return noise

    def _outputs_of(self, x: np.ndarray) -> np.ndarray:
        return x[:, self._output :]

    def _adopt(self, batch: Batch) -> None:
        """Prepares the arrays of a batch; a training loop reuses the same batch."""
        size = len(batch.action)
        if self._batch is None or size != len(self._priority):
            self._allocate(size)
        self._batch, self._converted = batch, []
        obs, next_obs = (self._as_float(each.numpy()) for each in (batch.obs, batch.next_obs))
        self._masks = tuple(
            NO_MASK if mask is None else mask.numpy() for mask in (batch.next_mask, batch.mask)
        )
        self._inputs = (
            obs, next_obs, batch.action.numpy(), batch.reward.numpy(), batch.discount.numpy(),
            batch.weight.numpy(),
        )  # fmt: skip

    def _allocate(self, size: int) -> None:
        blocks = -(-size // BLOCK)
        one = activations(self._layers)
        self._active, self._following = (np.tile(one, (blocks, 1)) for _ in range(2))
        self._output = int(fused_passes.output_of(self._layers))
        self._priority, self._taken = torch.zeros(2, size)
        _, _, turned, sums = scratch(self._layers)
        self._scratch = turned, sums
        width = self._num_actions * BLOCK
        self._values, self._values_here, shares = np.zeros((3, blocks, width), np.float32)
        entropy, bonus = np.zeros((2, blocks, BLOCK), np.float32)
        self._choice = np.zeros((blocks, BLOCK), np.int64), shares, entropy, bonus
        self._log_policy = np.zeros(width, np.float32)
        self._value.adopt(blocks)

    def _as_float(self, stored: np.ndarray) -> np.ndarray:
        """Returns float32[B, F]: the array itself, or memory to convert it to at each step."""
        if stored.dtype == np.float32 and stored.flags.c_contiguous:
            return stored.reshape(len(stored), -1)
        converted = np.empty(stored.shape, np.float32)
        self._converted.append((converted, stored))
        return converted.reshape(len(stored), -1)


def family_layers(network: Any) -> list[Any]:
    """Returns the layers of an MLP and its head, in order; raises ValueError if unsupported."""
    if type(network) is not QNetwork or type(network.torso) is not MLP:
        raise ValueError("the fused update supports fastdqn's MLP only, not another torso")
    head: Any = network.head
    if type(head) not in (PlainHead, DuelingHead):
        raise ValueError("the fused update supports plain and dueling heads only")
    if getattr(head, "gradient_scale", 1.0) != 1.0:
        raise ValueError("the fused update does not support a gradient scale of dueling streams")
    if any(each.activation != "relu" for each in (network.torso, head)):
        raise ValueError("the fused update supports the activation relu only")
    last = head.streams if type(head) is DuelingHead else head.values
    layers = [each for each in network.torso.layers if type(each) is nn.Linear]
    return [*layers, *head.hidden, last]


def normalized(network: Any, obs: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Returns observations float32[B, F] as a network sees them, and their remaining factor."""
    statistics = network.statistics
    if not hasattr(statistics, "obs_mean"):
        return obs, np.float32(network.obs_scale)
    mean, deviation = (
        each.numpy().reshape(-1) for each in (statistics.obs_mean, statistics.obs_deviation)
    )
    return np.clip((obs - mean) / deviation, -FARTHEST, FARTHEST), np.float32(1.0)


def noise_table(dense: list[Any], online: Any) -> np.ndarray:
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
