"""Discretizer: observations, as they are stored, to the numbers of their states."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from fastdqn.envs import ObsReader
from fastdqn.kernels.jit import kernel

# What bounds numbers that a space leaves open, by id: from minus this to this. Ours, untuned: the
# velocities of CartPole, in m/s and rad/s, which good policies keep far inside of it.
OURS = {"CartPole-v0": 4.0, "CartPole-v1": 4.0}
# A bound of this size is none: some spaces write the largest float for it.
_UNBOUNDED = 1e30
# Numbers whose bounds are told one by one.
_MOST_TOLD = 12


class Cells(NamedTuple):
    """The digits of a state, the first counting most; V of them, from an observation's columns.

    column [V] int64 the first column · width [V] int64, above 1: a one-hot stretch of so many
    bins [V] int64 · low, high [V] float64: a number is cut into bins of equal width from low to
    high, and what lies outside is in the first or the last
    """

    column: np.ndarray
    width: np.ndarray
    bins: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def num_states(self) -> int:
        """S, however large."""
        return math.prod(self.bins.tolist())


class Cut(NamedTuple):
    """How a space is cut.

    binned [V] bool: which digits are numbers that --bins decides
    source [V] object: where bounds are from, in words: the space's, as asked, or ours
    """

    cells: Cells
    binned: np.ndarray
    source: np.ndarray


def cut(
    space: spaces.Space,
    env_id: str,
    bins: tuple[int, ...],
    low: tuple[float, ...] | None,
    high: tuple[float, ...] | None,
) -> Cut:
    """Cut a space that ObsReader reads. Discrete parts are digits as they are, and so are whole
    numbers of no more values than bins.

    bins       one for each number of its Box parts, or one for all
    low, high  bounds in place of the space's: one for each of those numbers, or one for all that
               have none
    Raises ValueError, a line for each mistake.
    """
    parts = [_digits(*part) for part in ObsReader(space).layout()]
    column, width, of_bins, lows, highs, whole = (
        np.concatenate([part[i] for part in parts]) for i in range(6)
    )
    binned = of_bins == 0
    source = np.full(len(column), "the space's", object)
    count, lines = int(binned.sum()), []
    for name, asked, bounds, sign in (("low", low, lows, -1.0), ("high", high, highs, 1.0)):
        open_ended = binned & ~(np.abs(bounds) < _UNBOUNDED)
        if asked is None and env_id in OURS:
            bounds[open_ended], source[open_ended] = sign * OURS[env_id], "ours"
            continue
        lines += _fill(name, asked, bounds, open_ended, binned, column)
        if asked is not None:
            source[open_ended if len(asked) == 1 else binned] = "as asked"
    if len(bins) not in (1, count):
        lines.append(f"bins are {len(bins)} numbers: give {_each(count)}")
    if not lines and not (lows < highs).all():
        at = int(np.flatnonzero(~(lows < highs))[0])
        lines.append(
            f"low is {lows[at]:g}, high {highs[at]:g} for number {column[at]} of an observation: "
            "low must be below high"
        )
    if lines:
        raise ValueError("\n".join(lines))
    of_bins[binned] = bins
    few = binned & whole & (highs - lows + 1 <= of_bins)
    of_bins[few] = np.rint(highs - lows + 1)[few]
    lows[few] -= 0.5
    highs[few] += 0.5
    return Cut(Cells(column, width, of_bins, lows, highs), binned & ~few, source)


def _fill(
    name: str, asked: Any, bounds: np.ndarray, open_ended: np.ndarray, binned: np.ndarray,
    column: np.ndarray,
) -> list[str]:  # fmt: skip
    """Put what is asked into bounds [V]; lines for what is missing or too much."""
    count = int(binned.sum())
    if asked is not None and len(asked) == count:
        bounds[binned] = asked
    elif asked is not None and len(asked) == 1:
        bounds[open_ended] = asked[0]
    elif asked is not None:
        return [f"{name} are {len(asked)} numbers: give {_each(count)}"]
    elif open_ended.any():
        at = np.flatnonzero(open_ended)
        which = ", ".join([*map(str, column[at][:_MOST_TOLD]), *["..."] * (len(at) > _MOST_TOLD)])
        return [
            f"observation numbers {which} (from 0) have no bound: give --{name}, one number for "
            f"all of them, or one for each of the {count}"
        ]
    return []


def _each(count: int) -> str:
    if count < 2:
        return f"one (an observation has {count} numbers to cut)"
    return f"one, or one for each of the {count} numbers of an observation"


def _digits(space: spaces.Space, first: int, width: int, factor: float) -> tuple:
    """Digits of one part, columns from first: column, width, bins (0: to be decided), low, high,
    and whether values are whole numbers that were not scaled."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        one = isinstance(space, spaces.Discrete)
        sizes = np.array([space.n] if one else space.nvec.reshape(-1), np.int64)
        zeros = np.zeros(len(sizes))
        return (
            first + np.cumsum(sizes) - sizes, sizes, sizes, zeros - 0.5, zeros + 1.5,
            zeros.astype(bool),
        )  # fmt: skip
    column, ones = np.arange(first, first + width), np.ones(width, np.int64)
    if isinstance(space, spaces.Box) and space.dtype != np.bool_:
        bounds = [np.asarray(b, np.float64).reshape(-1) * factor for b in (space.low, space.high)]
        whole = np.full(width, space.dtype.kind in "iu" and factor == 1.0)
        return column, ones, np.zeros(width, np.int64), *bounds, whole
    zeros = np.zeros(width)
    return column, ones, 2 * ones, zeros - 0.5, zeros + 1.5, zeros.astype(bool)


def power(bins: np.ndarray) -> str:
    """The number of states as it comes about: '20^4 = 160,000', '20^28224, about 10^36720'."""
    factors = [
        f"{size:,}^{count}" if count > 1 else f"{size:,}"
        for size, run in itertools.groupby(b for b in bins.tolist() if b > 1)
        if (count := len(list(run)))
    ]
    text = " x ".join(factors[:_MOST_TOLD] + ["..."] * (len(factors) > _MOST_TOLD)) or "1"
    exponent = float(np.log10(bins.astype(np.float64)).sum())
    if exponent >= 15:
        return f"{text}, about 10^{math.floor(exponent)}"
    states = math.prod(bins.tolist())
    return text if len(factors) == 1 and "^" not in text else f"{text} = {states:,}"


def tell_bounds(found: Cut) -> list[str]:
    """A line for each number that is cut, of the first few; what is outside is said once."""
    cells, at = found.cells, np.flatnonzero(found.binned)
    lines = [
        f"  number {cells.column[i]}: {cells.bins[i]} bins from {cells.low[i]:g} to "
        f"{cells.high[i]:g}, {found.source[i]}"
        for i in at[:_MOST_TOLD]
    ]
    if len(at) > _MOST_TOLD:
        lines.append(f"  ... and {len(at) - _MOST_TOLD:,} more")
    if lines:
        lines.insert(0, "bounds, beyond which all is in the first or the last bin:")
    return lines


def too_large(found: Cut, space: spaces.Space, env_id: str, row_bytes: int, room: int) -> str:
    """The line that refuses a table of more than room bytes.

    row_bytes  that a state takes, copies that are written included
    """
    bins, binned = found.cells.bins, found.binned
    count = int(binned.sum())
    fixed = math.prod(bins[~binned].tolist())
    most = max(0, room // row_bytes)
    fits = 0 if fixed > most else int((most / fixed) ** (1 / count) + 1e-9) if count else 0
    remedy = f"at most --bins {fits} fit; " if fits >= 2 else ""
    return (
        f"{_shape(space, bins[binned])}: {power(bins)} states, and memory has room for {most:,}; "
        f"{remedy}this is why there are networks: fastdqn train {env_id}"
    )


def _shape(space: spaces.Space, bins: np.ndarray) -> str:
    """What is cut, in words; bins of the numbers that --bins decides."""
    if not isinstance(space, spaces.Box) or len(bins) < 2:
        return "observations"
    size, least, most = " x ".join(map(str, space.shape)), bins.min(), bins.max()
    each = f"{least}" if least == most else f"{least} to {most}"
    if space.dtype == np.uint8 and len(space.shape) > 1:
        return f"{size} pixels of {each} colours"
    return f"{size} numbers in {each} bins"


class Discretizer:
    """Numbers the cells of observations in mixed radix.

    obs_shape  of one observation as ObsReader gives it
    """

    def __init__(self, cells: Cells, obs_shape: tuple[int, ...]):
        self.cells, self.obs_shape = cells, obs_shape
        self._scale = cells.bins / (cells.high - cells.low)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """States [N] int64, from 0 to S - 1. Raises ValueError where obs [N, *] is no such batch.

        A NaN, which no stream delivers, is in the first bin.
        """
        if np.ndim(obs) == 0 or np.shape(obs)[1:] != self.obs_shape:
            raise ValueError(
                f"observations have shape {np.shape(obs)}, {('N', *self.obs_shape)} expected: "
                "obs[None] makes a batch of one, ObsReader(space) reads other spaces than Box"
            )
        state, cells = np.empty(len(obs), np.int64), self.cells
        flat = np.ascontiguousarray(obs).reshape(len(obs), -1)
        number_cells(flat, cells.column, cells.width, cells.bins, cells.low, self._scale, state)
        return state


@kernel
def number_cells(obs, column, width, bins, low, scale, state):
    """state [N] int64 of obs [N, D]; the digits as in Cells, scale [V] bins in a unit."""
    for i in range(len(state)):
        number = 0
        for v in range(len(column)):
            first, digit = column[v], 0
            if width[v] > 1:
                while digit < width[v] - 1 and not obs[i, first + digit]:
                    digit += 1
            else:
                place = (np.float64(obs[i, first]) - low[v]) * scale[v]
                if place >= bins[v]:
                    digit = bins[v] - 1
                elif place > 0.0:
                    digit = np.int64(place)
            number = number * bins[v] + digit
        state[i] = number
