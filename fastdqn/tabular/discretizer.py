"""Discretizer: maps observations to state numbers."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from fastdqn.envs import ObsReader
from fastdqn.kernels.jit import kernel

# Bounds of unbounded numbers, by id: from minus this to this. Ours, untuned: they limit the
# velocities of CartPole, in m/s and rad/s, which stay far inside with a good policy.
OURS = {"CartPole-v0": 4.0, "CartPole-v1": 4.0}
# Larger bounds count as none, since some spaces use the largest float.
_UNBOUNDED = 1e30
# The most numbers to list one by one.
_MOST_TOLD = 12


class Cells(NamedTuple):
    """The V digits of a state number, the most significant first.

    Attributes:
        column: int64[V], first column of an observation that the digit depends on.
        width: int64[V]; above 1, the number of one-hot columns.
        bins: int64[V], number of values.
        low, high: float64[V]. Bins of equal width divide this range; values outside belong to the
            first or last bin.
    """

    column: np.ndarray
    width: np.ndarray
    bins: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def num_states(self) -> int:
        """Number of states, an unbounded integer."""
        return math.prod(self.bins.tolist())


class Cut(NamedTuple):
    """The digits of a space.

    Attributes:
        cells: The digits.
        binned: bool[V], whether --bins applies to the digit.
        source: object[V], the origin of the bounds for messages.
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
    """Divides a space that ObsReader can read.

    Discrete parts are digits as they are, and so are integers with at most as many values as bins.

    Args:
        space: The observation space.
        env_id: Id of the environment, for known bounds.
        bins: One for each number of Box parts, or one for all.
        low, high: Bounds in place of the space's: one for each of those numbers, or one for all
            numbers without a bound.

    Raises:
        ValueError: One line for each mistake.
    """
    parts = [_digits(*part) for part in ObsReader(space).layout()]
    column, width, of_bins, lows, highs, whole = (
        np.concatenate([part[i] for part in parts]) for i in range(6)
    )
    binned = of_bins == 0
    source = np.full(len(column), "from the space", object)
    count, lines = int(binned.sum()), []
    for name, asked, bounds, sign in (("low", low, lows, -1.0), ("high", high, highs, 1.0)):
        open_ended = binned & ~(np.abs(bounds) < _UNBOUNDED)
        if asked is None and env_id in OURS:
            bounds[open_ended], source[open_ended] = sign * OURS[env_id], "default"
            continue
        lines += _fill(name, asked, bounds, open_ended, binned, column)
        if asked is not None:
            source[open_ended if len(asked) == 1 else binned] = "as set"
    if len(bins) not in (1, count):
        lines.append(f"bins has {len(bins)} numbers: give {_each(count)}")
    if not lines and not (lows < highs).all():
        at = int(np.flatnonzero(~(lows < highs))[0])
        lines.append(
            f"low is {lows[at]:g} and high is {highs[at]:g} for number {column[at]} of an "
            "observation: low must be less than high"
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
    """Writes given bounds to bounds [V]; returns lines for missing or superfluous ones."""
    count = int(binned.sum())
    if asked is not None and len(asked) == count:
        bounds[binned] = asked
    elif asked is not None and len(asked) == 1:
        bounds[open_ended] = asked[0]
    elif asked is not None:
        return [f"{name} has {len(asked)} numbers: give {_each(count)}"]
    elif open_ended.any():
        at = np.flatnonzero(open_ended)
        which = ", ".join([*map(str, column[at][:_MOST_TOLD]), *["..."] * (len(at) > _MOST_TOLD)])
        return [
            f"observation numbers {which} (from 0) have no bound: set --{name} to one number for "
            f"all of them, or to one for each of the {count}"
        ]
    return []


def _each(count: int) -> str:
    if count < 2:
        return f"one (an observation has {count} numbers to discretize)"
    return f"one, or one for each of the {count} numbers of an observation"


def _digits(space: spaces.Space, first: int, width: int, factor: float) -> tuple:
    """Returns the digits of one part whose columns start at first.

    They are column, width, bins (0 if --bins applies), low, high, and whether values are unscaled
    integers.
    """
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
    """Formats the number of states: '20^4 = 160,000', or '20^28224, about 10^36720'."""
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


def describe_bounds(found: Cut) -> list[str]:
    """Returns a heading and a line for each of the first discretized numbers."""
    cells, at = found.cells, np.flatnonzero(found.binned)
    lines = [
        f"  number {cells.column[i]}: {cells.bins[i]} bins from {cells.low[i]:g} to "
        f"{cells.high[i]:g}, {found.source[i]}"
        for i in at[:_MOST_TOLD]
    ]
    if len(at) > _MOST_TOLD:
        lines.append(f"  ... and {len(at) - _MOST_TOLD:,} more")
    if lines:
        lines.insert(0, "bounds (values outside belong to the first or last bin):")
    return lines


def too_large(found: Cut, space: spaces.Space, env_id: str, row_bytes: int, room: int) -> str:
    """Returns the error for a table larger than room, in bytes.

    row_bytes is the size of a state, including copies that are written.
    """
    bins, binned = found.cells.bins, found.binned
    count = int(binned.sum())
    fixed = math.prod(bins[~binned].tolist())
    most = max(0, room // row_bytes)
    fits = 0 if fixed > most else int((most / fixed) ** (1 / count) + 1e-9) if count else 0
    remedy = f"use at most --bins {fits}, or " if fits >= 2 else "use "
    return (
        f"{_shape(space, bins[binned])}: {power(bins)} states are too many, memory has room for "
        f"{most:,}: {remedy}a network: fastdqn train {env_id}"
    )


def _shape(space: spaces.Space, bins: np.ndarray) -> str:
    """Describes what is discretized; bins are those of the numbers to which --bins applies."""
    if not isinstance(space, spaces.Box) or len(bins) < 2:
        return "observations"
    size, least, most = " x ".join(map(str, space.shape)), bins.min(), bins.max()
    each = f"{least}" if least == most else f"{least} to {most}"
    if space.dtype == np.uint8 and len(space.shape) > 1:
        return f"{size} pixels of {each} colours"
    return f"{size} numbers in {each} bins"


class Discretizer:
    """Maps observations to state numbers, with one digit for each number of the observation.

    Args:
        cells: The digits.
        obs_shape: Shape of one observation from ObsReader.
    """

    def __init__(self, cells: Cells, obs_shape: tuple[int, ...]):
        self.cells, self.obs_shape = cells, obs_shape
        self._scale = cells.bins / (cells.high - cells.low)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Returns int64[N] states, from 0 to S - 1; NaN belongs to the first bin.

        Raises:
            ValueError: obs is not a batch of observations, [N, *].
        """
        if np.ndim(obs) == 0 or np.shape(obs)[1:] != self.obs_shape:
            raise ValueError(
                f"observations have shape {np.shape(obs)}, must be {('N', *self.obs_shape)}. "
                "Use obs[None] for a batch of one, and ObsReader(space) for spaces other than Box"
            )
        state, cells = np.empty(len(obs), np.int64), self.cells
        flat = np.ascontiguousarray(obs).reshape(len(obs), -1)
        number_cells(flat, cells.column, cells.width, cells.bins, cells.low, self._scale, state)
        return state


@kernel
def number_cells(obs, column, width, bins, low, scale, state):
    """Writes the states of obs [N, D] to state, int64[N]; scale [V] is bins per unit."""
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
