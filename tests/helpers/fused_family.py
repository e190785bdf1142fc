"""Learners of the whole family, by autograd and by the fused kernels."""

from fractions import Fraction
from typing import Any

import torch

from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.cnn_torsos import MinAtarCNN
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.fused_family import FusedFamilyStep
from fastdqn.learning.hl_gauss import HLGaussValue
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.learner import Learner
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import (
    MLP,
    Affine,
    DuelingHead,
    Outputs,
    PlainHead,
    QNetwork,
    Statistics,
    StreamsHead,
)
from fastdqn.learning.noisy import NoisyLayers, noise_size
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import Draws
from fastdqn.learning.target_network import HardCopy, NoTarget, PolyakAverage
from fastdqn.learning.value import ScalarValue, Value, huber, squared_error
from helpers.fused import CPU, RATE

VALUES: dict[str, Any] = {
    "mse": lambda: ScalarValue(squared_error),
    "huber": lambda: ScalarValue(huber),
    "categorical": lambda: CategoricalValue(11, -3.0, 4.0),
    "quantile": lambda: QuantileValue(9),
    "implicit-quantile": lambda: ImplicitQuantileValue(5, 6, 7),
    "hl-gauss": lambda: HLGaussValue(11, -3.0, 4.0),
}
BACKUPS: dict[str, Any] = {
    "max": MaxBackup,
    "double": DoubleBackup,
    "munchausen": lambda: MunchausenBackup(0.9, 0.3, -1.0),
}
HEADS = {"plain": PlainHead, "dueling": DuelingHead}
# Of convolutional torsos.
STREAMS = {"plain": PlainHead, "dueling": StreamsHead}
MINATAR = (5, 5, 2)


def combinations() -> list[tuple[str, str]]:
    """Returns every value and backup that go together."""
    return [
        (value, backup)
        for value, make in VALUES.items()
        for backup in BACKUPS
        if make().takes_bonus or backup != "munchausen"
    ]


def make_network(
    value: Value, head="dueling", noisy=False, hidden=(24, 17), inputs: Any = 4, actions=3,
    normalizes=False,
) -> QNetwork:  # fmt: skip
    """Returns a network; with noise, all layers but the first are in the head.

    If inputs is the shape of a picture, it is MinAtar's network.
    """
    torch.manual_seed(0)
    layers = NoisyLayers(0.5) if noisy else Affine
    outputs = Outputs(actions, value.outputs_per_action)
    if isinstance(inputs, tuple):
        torso, rest, heads = MinAtarCNN(inputs), hidden, STREAMS
    else:
        shared, rest = (hidden[:1], hidden[1:]) if noisy else (hidden, ())
        torso, heads = MLP(inputs, shared), HEADS
    inner = heads[head](torso.num_features, outputs, layers, rest)
    statistics = None
    if normalizes:
        shape = inputs if isinstance(inputs, tuple) else (inputs,)
        statistics = Statistics(shape, of_obs=True, of_returns=False)
        statistics.obs_mean.uniform_(-1.0, 1.0)
        statistics.obs_deviation.uniform_(0.05, 2.0)
    return QNetwork(torso, value.wrap_head(torso.num_features, inner), 0.7, statistics)


def make_learner(
    make_step: Any, value="mse", backup="double", *, size=40, clip: float | None = 1.0, together=1,
    tau: float | None = 1.0, **of_network,
) -> Learner:  # fmt: skip
    """Returns a learner of batches of this size.

    value is a name in VALUES, or a value. Without a tau there is no target network.
    """
    chosen, rule = VALUES[value]() if isinstance(value, str) else value, BACKUPS[backup]()
    online = FlatParameters(make_network(chosen, **of_network), CPU)
    fractions = chosen.fractions_of_passes(rule)
    draws = Draws(size, noise_size(online.module), fractions, CPU, 3, together)
    target: Any = NoTarget()
    if tau is not None:
        target = HardCopy(Fraction(7)) if tau == 1.0 else PolyakAverage(Fraction(1), tau)
    adam = FusedAdam(online.weights, online.gradient, RATE)
    return Learner(online, chosen, rule, draws, adam, target, clip, make_step=make_step)


def make_both(*parts, **options) -> tuple[Learner, Learner]:
    return make_learner(None, *parts, **options), make_learner(FusedFamilyStep, *parts, **options)
