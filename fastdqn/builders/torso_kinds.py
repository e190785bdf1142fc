"""Torso kinds: chooses the torso of an observation shape, and its size."""

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

# Side lengths of preprocessed Atari screens and of MinAtar's.
_ATARI_SIDE, _MINATAR_SIDE = 84, 10


class Kind(NamedTuple):
    """A convolutional torso.

    Attributes:
        make: Function of obs_shape that returns the module.
        layers: Function of obs_shape that returns the sizes of its layers.
        takes: The expected observation shape, in words.
        hidden_sizes: Default hidden layers after it.
    """

    make: Callable[[tuple[int, ...]], nn.Module]
    layers: Callable[[tuple[int, ...]], list[Counted]]
    takes: str
    hidden_sizes: tuple[int, ...]


def _pictures(layers: tuple[Layer, ...], units: int) -> Kind:
    """Returns the kind of a torso for channels-first images, as Atari's."""
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
# Size from which three-dimensional uint8 observations count as images: 36 x 36, nature's minimum.
_PICTURE_BYTES = 36 * 36


def settle(options: Any, facts: Any) -> dict[str, Any]:
    """Returns torso and hidden_sizes, resolved for an environment's facts."""
    torso = options.torso
    if torso == "auto":
        torso = choose(tuple(facts.obs_shape), facts.obs_dtype)
    sizes = options.hidden_sizes
    if sizes is None:
        sizes = CONVOLUTIONS[torso].hidden_sizes if torso in CONVOLUTIONS else _MLP_SIZES
    return {"torso": torso, "hidden_sizes": sizes}


def choose(obs_shape: tuple[int, ...], obs_dtype: np.dtype) -> str:
    """Returns nature for uint8[K, 84, 84], minatar for uint8 or bool[10, 10, C], else mlp."""
    is_picture = len(obs_shape) == 3 and np.dtype(obs_dtype).name in ("uint8", "bool")
    if is_picture and obs_shape[1:] == (_ATARI_SIDE,) * 2 and obs_dtype != np.bool_:
        return "nature"
    if is_picture and obs_shape[:2] == (_MINATAR_SIDE,) * 2:
        return "minatar"
    return "mlp"


def problem(torso: str, obs_shape: tuple[int, ...]) -> str | None:
    """Returns a message if a torso cannot take observations of a shape, else None."""
    if torso not in CONVOLUTIONS:
        return None
    why = f"torso is {torso}, which takes observations {CONVOLUTIONS[torso].takes}"
    if len(obs_shape) != 3:
        return f"{why}. The observations are {list(obs_shape)}: use --torso mlp or auto"
    try:
        CONVOLUTIONS[torso].layers(obs_shape)
    except ValueError as error:
        remedy = "use --torso mlp or auto"
        if "first" in CONVOLUTIONS[torso].takes and obs_shape[2] <= 4 < obs_shape[0]:
            remedy = "if channels are last, move them first with a wrapper, or " + remedy
        return f"{why}. The observations are {list(obs_shape)}, {error}: {remedy}"
    return None


def remark(torso: str, facts: Any) -> str | None:
    """Returns a remark if images go into an MLP, which ignores their spatial structure."""
    shape = facts.obs_shape
    if torso != "mlp" or facts.obs_dtype != np.uint8 or len(shape) != 3:
        return None
    if math.prod(shape) < _PICTURE_BYTES:
        return None
    return (
        f"observations are uint8 {list(shape)}, flattened into an MLP: if they are images, "
        f"--torso nature takes {CONVOLUTIONS['nature'].takes}, of at least 36 x 36"
    )
