"""Torsos: which one an observation gets, and what it takes, from options and shapes alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from fastdqn.learning.cnn_torsos import (
    DATA_EFFICIENT,
    MINATAR,
    NATURE,
    Counted,
    Layer,
    MinAtarCNN,
    PictureCNN,
    count_layers,
)

# The square pictures of Atari's preprocessing, and MinAtar's.
_ATARI_SIDE, _MINATAR_SIDE = 84, 10


class Kind(NamedTuple):
    """A torso of convolutions.

    make    of obs_shape;  layers  of obs_shape, as they are counted
    takes   in words;  hidden_sizes  behind it, where none are asked for
    """

    make: Callable[[tuple[int, ...]], nn.Module]
    layers: Callable[[tuple[int, ...]], list[Counted]]
    takes: str
    hidden_sizes: tuple[int, ...]


def _pictures(layers: tuple[Layer, ...], units: int) -> Kind:
    """Of pictures of bytes, channels first, as Atari's are."""
    return Kind(
        lambda shape: PictureCNN(shape, layers),
        lambda shape: count_layers(layers, shape[1], shape[2], shape[0]),
        "[K, H, W], channels first",
        (units,),
    )


CONVOLUTIONS = {
    "nature": _pictures(NATURE, 512),
    "data-efficient": _pictures(DATA_EFFICIENT, 256),
    "minatar": Kind(
        MinAtarCNN,
        lambda shape: count_layers(MINATAR, *shape),
        "[H, W, C], channels last",
        (128,),
    ),
}
_MLP_SIZES = (120, 84)
# From here on bytes in three axes are taken for a picture: 36 x 36, the least that nature takes.
_PICTURE_BYTES = 36 * 36


def settle(options: Any, facts: Any) -> Any:
    """options (a Config) with the torso and hidden_sizes that facts (an environment's) give."""
    torso = options.torso
    if torso == "auto":
        torso = choose(tuple(facts.obs_shape), facts.obs_dtype)
    sizes = options.hidden_sizes
    if sizes is None:
        sizes = CONVOLUTIONS[torso].hidden_sizes if torso in CONVOLUTIONS else _MLP_SIZES
    return options.replace(torso=torso, hidden_sizes=sizes)


def choose(obs_shape: tuple[int, ...], obs_dtype: np.dtype) -> str:
    """nature for bytes [K, 84, 84], minatar for bytes or truths [10, 10, C], else mlp."""
    is_picture = len(obs_shape) == 3 and np.dtype(obs_dtype).name in ("uint8", "bool")
    if is_picture and obs_shape[1:] == (_ATARI_SIDE,) * 2 and obs_dtype != np.bool_:
        return "nature"
    if is_picture and obs_shape[:2] == (_MINATAR_SIDE,) * 2:
        return "minatar"
    return "mlp"


def problem(torso: str, obs_shape: tuple[int, ...]) -> str | None:
    """A line where a torso does not take observations of that shape."""
    if torso not in CONVOLUTIONS:
        return None
    why = f"torso is {torso}, which takes observations {CONVOLUTIONS[torso].takes}"
    if len(obs_shape) != 3:
        return f"{why}; these are {list(obs_shape)}: use --torso mlp or auto"
    try:
        CONVOLUTIONS[torso].layers(obs_shape)
    except ValueError as error:
        remedy = "use --torso mlp or auto"
        if "first" in CONVOLUTIONS[torso].takes and obs_shape[2] <= 4 < obs_shape[0]:
            remedy = "where channels are last, bring them to the front with a wrapper, or " + remedy
        return f"{why}; these are {list(obs_shape)}, {error}: {remedy}"
    return None


def remark(torso: str, facts: Any) -> str | None:
    """A line where pictures go into an MLP, which is slow and blind to what lies beside what."""
    shape = facts.obs_shape
    if torso != "mlp" or facts.obs_dtype != np.uint8 or len(shape) != 3:
        return None
    if math.prod(shape) < _PICTURE_BYTES:
        return None
    return (
        f"observations are {list(shape)} bytes, flattened into an MLP: if they are pictures, "
        f"--torso nature takes {CONVOLUTIONS['nature'].takes}, of at least 36 x 36"
    )


class Needs(NamedTuple):
    """Sizes of a torso.

    weights  of the torso; features  F that it gives; numbers  that it keeps for a sample
    """

    weights: int
    features: int
    numbers: int


def needs(torso: str, obs_shape: tuple[int, ...]) -> Needs:
    """Of a torso of convolutions, counted without making it."""
    layers = CONVOLUTIONS[torso].layers(obs_shape)
    return Needs(
        sum((layer.fan_in + 1) * layer.fan_out for layer in layers),
        layers[-1].positions * layers[-1].fan_out,
        # Patches may be written out, and the observation is brought into another order.
        2 * math.prod(obs_shape)
        + sum(layer.positions * (layer.fan_in + layer.fan_out) for layer in layers),
    )
