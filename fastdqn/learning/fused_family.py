"""FusedFamilyStep: the gradient step on the CPU with any built-in value and backup, by kernels.

FusedStep is one kernel for a plain MLP. Here each stage is a kernel over the whole batch, so
that values, backups and noise combine freely. The stages are those of AutogradSteps: passes,
backup, target, loss, backward, clip and Adam.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdqn.learning import fused_backups, fused_kernel, fused_passes
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_categorical import FusedCategorical
from fastdqn.learning.fused_heads import HeadPasses
from fastdqn.learning.fused_hl_gauss import FusedHLGauss
from fastdqn.learning.fused_implicit import FusedImplicit, ImplicitPasses
from fastdqn.learning.fused_kernel import BLOCK
from fastdqn.learning.fused_learner import NO_MASK, adam_of
from fastdqn.learning.fused_mlp import (
    NO_ROWS,
    MLPPasses,
    Network,
    NetworkPasses,
    family_layers,
    inner_head,
)
from fastdqn.learning.fused_policy import FusedPolicy
from fastdqn.learning.fused_quantile import FusedQuantile
from fastdqn.learning.fused_scalar import FusedScalar
from fastdqn.learning.fused_torsos import make_torso
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import MLP, DuelingHead
from fastdqn.learning.noisy import NoisyLinear
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import MEANS, Draw, Passes
from fastdqn.learning.value import ScalarValue, Value
from fastdqn.replay.batch import Batch

FAMILY: dict[type, Any] = {
    ScalarValue: FusedScalar, CategoricalValue: FusedCategorical, QuantileValue: FusedQuantile,
    ImplicitQuantileValue: FusedImplicit, HLGaussValue: FusedHLGauss,
}  # fmt: skip
_NO_NOISE = np.zeros(0, np.float32)


def make_fused_policy(online: FlatParameters, value: Value) -> Any:
    """Returns FusedPolicy for a plain MLP, else FusedFamilyPolicy. Raises ValueError."""
    network: Any = online.module
    noisy = any(type(each) is NoisyLinear for each in network.modules())
    beyond = noisy or hasattr(network.statistics, "obs_mean") or type(network.torso) is not MLP
    if type(value) is ScalarValue and not beyond:
        return FusedPolicy(online)
    return FusedFamilyPolicy(online, value)


def make_parts(online: FlatParameters, value: Value) -> tuple[NetworkPasses, Any]:
    """Returns the passes and the value of a network; raises ValueError, naming the part."""
    if type(value) not in FAMILY:
        raise ValueError(f"the fused update does not support {type(value).__name__}")
    network: Any = online.module
    layers, per_action = family_layers(network), value.outputs_per_action or 1
    dueling = int(type(inner_head(network)) is DuelingHead)
    passes: NetworkPasses
    if type(network.torso) is MLP and not layers.embedding and len(layers.chains) == 1:
        passes = MLPPasses(online, layers.torso, layers.chains[0], dueling, per_action)
    else:
        torso = make_torso(online, layers)
        if layers.embedding:
            passes = ImplicitPasses(online, layers, torso, dueling)
        else:
            passes = HeadPasses(online, layers, torso, dueling, per_action)
    return passes, FAMILY[type(value)](value, passes.num_actions, dueling)


class FusedFamilyPolicy:
    """Greedy actions of a network of the family by kernels, with the learner's weights.

    Raises:
        ValueError: The network is not supported, as in FusedFamilyStep.
    """

    def __init__(self, online: FlatParameters, value: Value):
        self._online = Network(online)
        self._passes, self._value = make_parts(online, value)
        self._best = np.zeros((0, BLOCK), np.int64)

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None, draw: Draw = MEANS) -> np.ndarray:
        """Returns int64[N] greedy actions, with the noise of each row of draw, [N, D], if any."""
        passes, blocks = self._passes, -(-len(obs) // BLOCK)
        if len(self._best) < blocks:
            passes.allocate(blocks)
            self._values = np.zeros((blocks, passes.num_actions * BLOCK), np.float32)
            self._best = np.zeros((blocks, BLOCK), np.int64)
        numbers = np.ascontiguousarray(obs, None if _is_bytes(obs) else np.float32)
        numbers = _flat(numbers)
        numbers, scale = self._online.normalized(numbers)
        of_rows = NO_ROWS if draw.noise is None else draw.noise.numpy()
        outputs = passes.forward(self._online.weights, numbers, scale, draw, 0, of_rows=of_rows)
        values, best = self._values[:blocks], self._best[:blocks]
        self._value.expected(outputs, values)
        allowed = NO_MASK if mask is None else np.ascontiguousarray(mask, np.bool_)
        fused_backups.select_best(values, allowed, passes.num_actions, best)
        return best.reshape(-1)[: len(obs)].copy()


class FusedFamilyStep:
    """Takes the gradient step of a learner with compiled kernels.

    Supported are MLPs and MinAtar's network on the CPU with a plain or dueling head, noisy or not,
    and every built-in value and backup. The learner's tensors are used in place. All other memory
    is allocated with the first batch of a size.

    Args:
        learner: The learner.

    Raises:
        ValueError: The learner is not supported; names the part.
    """

    def __init__(self, learner: Learner):
        if type(learner.backup) not in (DoubleBackup, MaxBackup, MunchausenBackup):
            raise ValueError(f"the fused update does not support {type(learner.backup).__name__}")
        self._passes, self._value = make_parts(learner.online, learner.value)
        self._layers, self._num_actions = self._passes.layers, self._passes.num_actions
        self._noisy = self._passes.noisy
        self._learner = learner
        self._online, self._target = Network(learner.online), Network(learner.target)
        self._gradient = learner.online.gradient.numpy()
        self._loss_sum = learner.loss_sum.numpy().reshape(1)
        self._adam = adam_of(learner)
        self._effective = np.empty_like(self._gradient) if (self._noisy >= 0).any() else None
        self._batch: Batch | None = None

    def __call__(self, batch: Batch, passes: Passes) -> Tensor:
        """Takes the step; returns priorities [B], which the next step overwrites."""
        if batch is not self._batch:
            self._adopt(batch)
        for kept, given in self._converted:
            np.copyto(kept, given, casting="unsafe")
        obs, next_obs, action, reward, discount, weight = self._inputs
        following = self._bootstrap(obs, next_obs, action, passes)
        self._value.aim(following, *self._choice, reward, discount)
        draw = passes.online_obs
        outputs, noise = self._forward(self._online, obs, draw, 0, keeps=True)
        loss = self._value.compare(outputs, action, weight, draw, *self._of_samples)
        weights = self._online.weights if self._effective is None else self._effective
        self._passes.backward(weights, outputs, self._gradient)
        if self._effective is not None:
            fused_passes.add_noise_gradients(self._gradient, self._noisy, self._layers, noise)
        if self._learner.average is not None:
            self._learner.average(self._learner.online.gradient)
        fused_kernel.descend(self._online.weights, self._gradient, *self._adam)
        self._loss_sum[0] += np.float32(loss / len(action))
        self._learner.taken = self._taken
        return self._priority

    def _bootstrap(self, obs, next_obs, action, passes: Passes) -> np.ndarray:
        """Computes the weights of the next actions; returns the target network's next outputs."""
        values, backup = self._values, self._learner.backup
        best, shares, entropy, bonus = self._choice
        if type(backup) is DoubleBackup:
            self._value.expected(
                self._forward(self._online, next_obs, passes.online_next, 0)[0], values
            )
        following, _ = self._forward(self._target, next_obs, passes.target_next, 1)
        if type(backup) is not DoubleBackup:
            self._value.expected(following, values)
        if not isinstance(backup, MunchausenBackup):
            fused_backups.bootstrap_greedily(
                values, self._masks[0], self._num_actions, best, shares
            )
            return following
        here, _ = self._forward(self._target, obs, passes.target_obs, 0)
        self._value.expected(here, self._values_here)
        alpha, temperature, least = map(np.float32, backup.settings)
        fused_backups.bootstrap_softly(
            values, self._values_here, action, *self._masks, self._num_actions, alpha, temperature,
            least, self._log_policy, shares, entropy, bonus,
        )  # fmt: skip
        return following

    def _forward(
        self, network: Network, obs, draw: Draw, slot: int, *, keeps=False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs of a pass, and its noise."""
        noise, weights = _NO_NOISE, network.weights
        obs, scale = network.normalized(obs)
        if self._effective is not None:
            assert draw.noise is not None
            noise = draw.noise.numpy().reshape(-1)
            fused_passes.add_noise(weights, self._noisy, self._layers, noise, self._effective)
            weights = self._effective
        return self._passes.forward(weights, obs, scale, draw, slot, keeps=keeps), noise

    def _adopt(self, batch: Batch) -> None:
        """Prepares the arrays of a batch; a training loop reuses the same batch."""
        size, before = len(batch.action), self._batch
        self._batch = None  # if this is interrupted, the next update starts over
        if before is None or size != len(before.action):
            self._allocate(size)
        self._converted = []
        obs, next_obs = (self._as_numbers(each.numpy()) for each in (batch.obs, batch.next_obs))
        self._masks = tuple(
            NO_MASK if mask is None else mask.numpy() for mask in (batch.next_mask, batch.mask)
        )
        self._inputs = (
            obs, next_obs, batch.action.numpy(), batch.reward.numpy(), batch.discount.numpy(),
            batch.weight.numpy(),
        )  # fmt: skip
        self._batch = batch

    def _allocate(self, size: int) -> None:
        blocks = -(-size // BLOCK)
        self._priority, self._taken = torch.zeros(2, size)
        self._of_samples = self._priority.numpy(), self._taken.numpy()
        width = self._num_actions * BLOCK
        self._values, self._values_here, shares = np.zeros((3, blocks, width), np.float32)
        entropy, bonus = np.zeros((2, blocks, BLOCK), np.float32)
        self._choice = np.zeros((blocks, BLOCK), np.int64), shares, entropy, bonus
        self._log_policy = np.zeros(width, np.float32)
        self._value.allocate(blocks)
        self._passes.allocate(blocks)

    def _as_numbers(self, stored: np.ndarray) -> np.ndarray:
        """Returns [B, F]: the array itself, or memory to convert it to at each step."""
        if not stored.flags.c_contiguous or not (stored.dtype == np.float32 or _is_bytes(stored)):
            converted = np.empty(stored.shape, np.float32)
            self._converted.append((converted, stored))
            stored = converted
        return _flat(stored)


def _is_bytes(obs: np.ndarray) -> bool:
    """Returns whether the kernels read these observations as bytes."""
    return obs.dtype in (np.uint8, np.bool_)


def _flat(obs: np.ndarray) -> np.ndarray:
    """Returns a contiguous array as float32[B, F] or uint8[B, F]."""
    numbers = obs.view(np.uint8) if obs.dtype == np.bool_ else obs
    return numbers.reshape(len(obs), int(np.prod(obs.shape[1:])))
