"""Value kinds: makes the value distribution and head of each --value option."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from fastdqn.learning.bootstrap_targets import Backup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.implicit_quantile import NUM_COSINES, ImplicitHead, ImplicitQuantileValue
from fastdqn.learning.quantile import QuantileValue, midpoints
from fastdqn.learning.value import ScalarValue, Value, huber, squared_error

# Options that the outputs depend on, which are stored with the weights.
OPTIONS = (
    "value", "num_atoms", "v_min", "v_max", "num_quantiles", "num_target_fractions",
    "num_policy_fractions",
)  # fmt: skip


class Kind(NamedTuple):
    """How one kind of value is made.

    Attributes:
        make: Function of options and device that returns the Value.
        outputs: Function of options that returns the outputs per action. None: a single one,
            without an axis.
    """

    make: Callable[[Any, torch.device], Value]
    outputs: Callable[[Any], int | None] = lambda o: None


_LOSSES = {"mse": squared_error, "huber": huber}
_KINDS = {
    "scalar": Kind(lambda o, _: ScalarValue(_LOSSES[getattr(o, "loss", "mse")])),
    "categorical": Kind(
        lambda o, device: CategoricalValue(
            torch.linspace(o.v_min, o.v_max, o.num_atoms, device=device)
        ),
        lambda o: o.num_atoms,
    ),
    "quantile": Kind(
        lambda o, device: QuantileValue(midpoints(o.num_quantiles, device)),
        lambda o: o.num_quantiles,
    ),
    "implicit-quantile": Kind(
        lambda o, _: ImplicitQuantileValue(o.num_target_fractions, o.num_policy_fractions)
    ),
}


def make_value(options: Any, device: torch.device) -> Value:
    """Returns the Value of a Config, or of a network description as attributes."""
    return _KINDS[options.value].make(options, device)


def outputs_per_action(options: Any) -> int | None:
    """Returns the outputs of a head per action. None: a single one, without an axis."""
    return _KINDS[options.value].outputs(options)


def wrap_head(options: Any, num_features: int, head: nn.Module) -> nn.Module:
    """Returns the head, wrapped for implicit quantiles."""
    if options.value != "implicit-quantile":
        return head
    return ImplicitHead(num_features, head, options.num_policy_fractions)


def fractions_of_passes(options: Any, backup: Backup) -> tuple[int, int, int, int]:
    """Returns the fractions per sample of each forward pass, in the order of Passes."""
    if options.value != "implicit-quantile":
        return 0, 0, 0, 0
    policy = options.num_policy_fractions
    return (
        options.num_fractions,
        options.num_target_fractions + policy * backup.asks_target_next,
        policy * backup.asks_online_next,
        policy * backup.asks_target_obs,
    )


def embedding_weights(options: Any, num_features: int) -> int:
    """Returns the number of weights that wrap_head() adds."""
    return (NUM_COSINES + 1) * num_features if options.value == "implicit-quantile" else 0


def numbers_a_sample(options: Any, num_actions: int, num_features: int) -> int:
    """Returns about how many numbers an update stores per sample, in addition to scalar values."""
    o = options
    if o.value == "categorical":
        return 8 * o.num_atoms * num_actions
    if o.value == "quantile":
        return o.num_quantiles * (4 * num_actions + 6 * o.num_quantiles)
    if o.value == "implicit-quantile":
        asked = o.num_fractions + o.num_target_fractions + 2 * o.num_policy_fractions
        pairs = 6 * o.num_fractions * o.num_target_fractions
        return asked * (NUM_COSINES + 3 * num_features + 4 * num_actions) + pairs
    return 0
