"""ObsReader: converts batched observations of any flattenable space to one array."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

_WRAP = "gymnasium.wrappers.TransformObservation, given as --wrapper my_package:my_wrapper"


# Numbers in one observation. A larger one is a mistake, or does not fit a replay. Ours, untuned.
_MOST_NUMBERS = 1 << 28


class _Part(NamedTuple):
    """One leaf of a space: its keys, its columns, and its storage dtype and scale."""

    path: tuple[Any, ...]
    space: spaces.Space
    columns: slice
    dtype: np.dtype
    scale: float


class ObsReader:
    """Converts batched observations of a VectorEnv to an array [N, *shape].

    A Box keeps its shape. Discrete, MultiDiscrete, MultiBinary, Dict and Tuple become one row of
    columns, in the order of gymnasium.spaces.flatten(), with Discrete parts one-hot.

    Attributes:
        shape: Shape of one observation.
        dtype: uint8 for bytes and one-hot columns, otherwise float32.
        scale: Factor applied before the network: 1/255 for bytes that span 0 to 255, else 1.
            Such bytes next to other numbers are scaled here.

    Raises:
        ValueError: A part of the space has no fixed number of values; the message has a remedy.
    """

    shape: tuple[int, ...]

    def __init__(self, space: spaces.Space):
        self._parts = list(_parts(space))
        stored = {(part.dtype, part.scale) for part in self._parts}
        if not self._parts or not self._parts[-1].columns.stop:
            raise ValueError(
                f"observation space {short(space)} has no numbers: there is nothing to learn from"
            )
        numbers = self._parts[-1].columns.stop
        if numbers > _MOST_NUMBERS:
            raise ValueError(
                f"observation space {short(space)} has {numbers:,} numbers (Discrete parts count "
                f"one for each value), the limit is {_MOST_NUMBERS:,}: convert it to a Box with "
                f"{_WRAP}"
            )
        self.dtype, self.scale = stored.pop() if len(stored) == 1 else (np.dtype(np.float32), 1.0)
        self._is_box = isinstance(space, spaces.Box)
        if isinstance(space, spaces.Box):
            self.shape, self.dtype = space.shape, _box_dtype(space)
        else:
            self.shape = (self._parts[-1].columns.stop,)

    def __call__(self, obs: Any) -> np.ndarray:
        """Reads a batch of N raw observations into a new array [N, *shape]."""
        first = obs
        for key in self._parts[0].path:
            first = first[key]
        out = np.empty((len(first), *self.shape), self.dtype)
        self.read(obs, out)
        return out

    def layout(self) -> list[tuple[spaces.Space, int, int, float]]:
        """Returns the space, first column, number of columns and scale factor of each part."""
        return [
            (
                part.space,
                part.columns.start,
                part.columns.stop - part.columns.start,
                part.scale / self.scale,
            )
            for part in self._parts
        ]

    def one(self, obs: Any) -> np.ndarray:
        """Reads one raw observation of a single environment into a batch [1, *shape]."""
        return self(batch_of_one(obs))

    def read(self, obs: Any, out: np.ndarray) -> None:
        """Copies raw observations into out, [N, *shape]; wide dtypes become float32.

        Raises:
            ValueError: A part has the wrong shape or lies outside its space.
        """
        if self._is_box:
            _copy(out, _shaped(obs, out.shape))
            return
        for part in self._parts:
            values = obs
            for key in part.path:
                values = values[key]
            _write(part, values, out[:, part.columns], part.scale / self.scale)


def flattening_problems(space: spaces.Space) -> list[str]:
    """Returns a line for every part of a space that ObsReader cannot read."""
    parts = list(leaves(space))
    bad = [(path, leaf) for path, leaf in parts if not _is_numbers(leaf)]
    dropped = {path[0] for path, _ in bad if path}
    # In the order of the space: a Dict is sorted, and the keys of a Tuple are numbers.
    keep = list(dict.fromkeys(path[0] for path, _ in parts if path and path[0] not in dropped))
    drop = f"drop it with gymnasium.wrappers.FilterObservation(env, {keep}), or " if keep else ""
    return [
        f"observation space {''.join(f'[{key!r}]' for key in path)} is {short(leaf)}, which has no "
        f"fixed number of values: {drop}convert it to a Box with {_WRAP}"
        if path
        else f"observation space {short(leaf)} has no fixed number of values: convert it to a Box "
        f"with {_WRAP}"
        for path, leaf in bad
    ]


def _is_numbers(leaf: spaces.Space) -> bool:
    if isinstance(leaf, spaces.Box):
        return leaf.dtype.kind in "biuf"
    return isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def leaves(space: spaces.Space, path: tuple = ()) -> Iterator[tuple[tuple, spaces.Space]]:
    """Yields each leaf of a space with the keys that lead to it."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from leaves(inner, (*path, i))
    else:
        yield path, space


def batch_of_one(obs: Any) -> Any:
    """Returns a single observation, however nested, as a batch of one."""
    if isinstance(obs, dict):
        return {key: batch_of_one(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(batch_of_one(value) for value in obs)
    return np.asarray(obs)[None]


def short(space: spaces.Space) -> str:
    """Returns the repr of a space in one line of at most 120 characters.

    A space with functions in it, such as MiniGrid's missions, is shortened to its class name.
    """
    text = " ".join(str(space).split())
    if " at 0x" in text and not isinstance(space, spaces.Dict | spaces.Tuple):
        text = type(space).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _parts(space: spaces.Space) -> Iterator[_Part]:
    if lines := flattening_problems(space):
        raise ValueError("; ".join(lines))
    start = 0
    for path, leaf in leaves(space):
        dtype, scale = np.dtype(np.uint8), 1.0
        if isinstance(leaf, spaces.Box) and leaf.dtype != np.bool_:
            dtype = _box_dtype(leaf)
            full = leaf.dtype == np.uint8 and leaf.high.size > 0 and leaf.high.max() == 255
            scale = 1.0 / 255.0 if full else 1.0
        stop = start + _width(leaf)
        yield _Part(path, leaf, slice(start, stop), dtype, scale)
        start = stop


def _box_dtype(box: spaces.Box) -> np.dtype:
    dtype = np.dtype(box.dtype)
    return dtype if dtype.itemsize == 1 else np.dtype(np.float32)


def _width(leaf: spaces.Space) -> int:
    """Returns the columns of a leaf as Python integers, which do not overflow."""
    if isinstance(leaf, spaces.Discrete):
        return int(leaf.n)
    if isinstance(leaf, spaces.MultiDiscrete):
        return sum(leaf.nvec.reshape(-1).tolist())
    width = 1
    for size in leaf.shape or ():
        width *= int(size)
    return width


def _shaped(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != shape:
        raise ValueError(f"observations have shape {values.shape}, but their space has {shape}")
    return values


def _copy(out: np.ndarray, values: np.ndarray) -> None:
    if values.dtype != np.float64:
        np.copyto(out, values, casting="unsafe")
        return
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported later
        np.copyto(out, values, casting="unsafe")


def _write(part: _Part, values: Any, out: np.ndarray, scale: float) -> None:
    """Writes one part of N observations to its columns out, [N, width]."""
    leaf, n = part.space, len(out)
    if isinstance(leaf, spaces.Discrete):
        _one_hot(_shaped(values, (n,)).reshape(n, 1) - leaf.start, np.array([leaf.n]), leaf, out)
    elif isinstance(leaf, spaces.MultiDiscrete):
        counted = _shaped(values, (n, *leaf.nvec.shape)) - getattr(leaf, "start", 0)
        _one_hot(counted.reshape(n, -1), leaf.nvec.reshape(-1), leaf, out)
    else:
        flat = _shaped(values, (n, *(leaf.shape or ()))).reshape(n, -1)
        if scale == 1.0:
            _copy(out, flat)
        else:
            np.multiply(flat, scale, out=out, casting="unsafe")


def _one_hot(counted: np.ndarray, sizes: np.ndarray, leaf: spaces.Space, out: np.ndarray) -> None:
    """Writes values counted from 0, [N, P], as P one-hot groups of columns of the given sizes."""
    outside = (counted < 0) | (counted >= sizes)
    if outside.any():
        raise ValueError(f"an observation is outside the space {short(leaf)}")
    starts = np.cumsum(sizes) - sizes
    out.fill(0)
    np.put_along_axis(out, (counted + starts).astype(np.int64), 1, axis=1)


def put(space: spaces.Space, batch: Any, lane: int, obs: Any) -> None:
    """Writes one observation, however nested, to a row of a batch."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            put(inner, batch[key], lane, obs[key])
    elif isinstance(space, spaces.Tuple):
        for inner, part, value in zip(space.spaces, batch, obs, strict=True):
            put(inner, part, lane, value)
    else:
        batch[lane] = obs


def take(space: spaces.Space, obs: Any, lanes: np.ndarray) -> Any:
    """Returns rows of a batch of observations, however nested."""
    if isinstance(space, spaces.Dict):
        return {key: take(inner, obs[key], lanes) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(take(space.spaces[i], part, lanes) for i, part in enumerate(obs))
    return np.asarray(obs)[lanes]
