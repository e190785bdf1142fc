"""Episodes: recorded transitions, episode after episode, checked against an environment."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from fastdqn.envs import EnvFacts, ObsReader
from fastdqn.envs.observations import leaves


class DatasetError(ValueError):
    """Raised if recorded episodes cannot be used. One line: source, field, value, fix."""


class Episodes(NamedTuple):
    """T transitions of E episodes. Episode e has lengths[e] transitions and one observation more.

    Attributes:
        lengths: int64[E], transitions of each episode, at least 1.
        action: int64[T], counted from 0.
        reward: float64[T].
        terminated: bool[T].
        truncated: bool[T]. An episode whose last transition has neither flag was cut.
        observations: Maps rows int64[M] of the T + E observations to them, [M, *] as stored.
        masks: As observations, for the allowed actions bool[M, A]. None without masks.
    """

    lengths: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    observations: Callable[[np.ndarray], np.ndarray]
    masks: Callable[[np.ndarray], np.ndarray] | None = None


def from_arrays(
    source: str, arrays: Mapping[str, Any], facts: EnvFacts, space: spaces.Space
) -> Episodes:
    """Returns episodes from arrays under the names of the .npz schema, see npz_file.py.

    Args:
        source: Named in errors.
        arrays: The arrays by name. observations may be a Dict or Tuple of arrays.
        facts: Of the environment.
        space: Its observation space.

    Raises:
        DatasetError: An array is missing or does not fit the environment.
    """
    lengths = _numbers(source, arrays, "episode_lengths", "iu")
    if len(lengths) == 0 or (lengths < 1).any():
        least = int(lengths.min()) if len(lengths) else 0
        raise DatasetError(
            f"{source}: episode_lengths has {len(lengths)} episodes, the shortest of {least} "
            "transitions: there must be an episode, and each needs a transition"
        )
    count = sum(lengths.tolist())
    action = _actions(source, arrays, facts, count)
    reward = _numbers(source, arrays, "rewards", "iufb", count).astype(np.float64)
    with np.errstate(over="ignore"):
        stored = np.isfinite(reward.astype(np.float32))
    if not stored.all():
        at = np.flatnonzero(~stored)[0]
        raise DatasetError(
            f"{source}: reward {at} is {reward[at]}: rewards must be finite in float32"
        )
    lengths = lengths.astype(np.int64)  # count entries of the other arrays are there: it fits
    terminated = _flags(source, arrays, "terminations", count)
    truncated = _flags(source, arrays, "truncations", count)
    _require_ends(source, lengths, terminated | truncated)
    obs = _observations(source, arrays, facts, space, count + len(lengths))
    last = np.cumsum(lengths) - 1  # transition of each episode
    over = (last + np.arange(1, len(last) + 1))[terminated[last]]  # rows of observations
    masks = _masks(source, arrays, facts, count + len(lengths), over)
    return Episodes(
        lengths, action, reward, terminated, truncated, obs.__getitem__,
        None if masks is None else masks.__getitem__,
    )  # fmt: skip


def _actions(source: str, arrays: Mapping[str, Any], facts: EnvFacts, count: int) -> np.ndarray:
    """Returns the actions int64[count], counted from 0."""
    given = _numbers(source, arrays, "actions", "iu", count)
    first, last = facts.action_start, facts.action_start + facts.num_actions - 1
    outside = np.flatnonzero((given < first) | (given > last))  # before the cast, which may wrap
    if len(outside):
        at = outside[0]
        raise DatasetError(
            f"{source}: action {at} is {given[at]}: the environment has the actions {first} to "
            f"{last}"
        )
    return given.astype(np.int64) - first


def _require_ends(source: str, lengths: np.ndarray, ended: np.ndarray) -> None:
    inside = ended.copy()
    inside[np.cumsum(lengths) - 1] = False
    if inside.any():
        at = np.flatnonzero(inside)[0]
        raise DatasetError(
            f"{source}: transition {at} is terminated or truncated inside an episode: "
            "episode_lengths must end an episode there"
        )


def _take(source: str, arrays: Mapping[str, Any], name: str) -> Any:
    if name not in arrays:
        raise DatasetError(
            f"{source} has no {name}: it has {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    return arrays[name]


def _numbers(
    source: str, arrays: Mapping[str, Any], name: str, kinds: str, count: int | None = None
) -> np.ndarray:
    """Returns a one-dimensional array of numbers of these dtype kinds."""
    array = np.asarray(_take(source, arrays, name))
    length = "N" if count is None else count
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise DatasetError(
            f"{source}: {name} has shape {array.shape}, must have ({length},): one entry for each "
            f"{'episode' if count is None else 'transition'}"
        )
    if array.dtype.kind not in kinds:
        meaning = "integers" if kinds == "iu" else "numbers"
        raise DatasetError(f"{source}: {name} is of dtype {array.dtype}, must be {meaning}")
    return array


def _flags(source: str, arrays: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    array = _numbers(source, arrays, name, "biuf", count)
    if not np.isin(array, (0, 1)).all():
        raise DatasetError(f"{source}: {name} has other values than 0 and 1")
    return array.astype(np.bool_)


def _observations(
    source: str, arrays: Mapping[str, Any], facts: EnvFacts, space: spaces.Space, rows: int
) -> np.ndarray:
    """Returns all observations [rows, *], as the replay stores them."""
    given = _take(source, arrays, "observations")
    _require_storable(source, given, space)
    if isinstance(given, np.ndarray) and given.shape == (rows, *facts.obs_shape):
        obs = given if given.dtype == facts.obs_dtype else None
    else:
        obs = None
    if obs is None:
        try:
            obs = ObsReader(space)(given)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DatasetError(
                f"{source}: observations do not fit the environment, whose observations have shape "
                f"{facts.obs_shape}: {error}"
            ) from None
    if len(obs) != rows:
        raise DatasetError(
            f"{source}: observations has {len(obs)} rows, must have {rows}: one for each "
            "transition and one more for each episode, its last observation"
        )
    if obs.dtype.kind == "f" and not np.isfinite(obs).all():
        at = np.flatnonzero(~np.isfinite(obs).reshape(rows, -1).all(1))[0]
        raise DatasetError(f"{source}: observation {at} is not finite")
    return obs


def _require_storable(source: str, observations: Any, space: spaces.Space) -> None:
    """Raises DatasetError if a value would be stored as another one.

    Images scaled to 0 to 1, for example, would all be 0 as bytes. Missing parts and wrong shapes
    are reported when the observations are read.
    """
    for path, leaf in leaves(space):
        name = "observations" + "".join(f"[{key!r}]" for key in path)
        values = observations
        try:
            for key in path:
                values = values[key]
            values = np.asarray(values)
        except (ValueError, TypeError, KeyError, IndexError):
            continue
        if values.dtype.kind not in "biuf":
            raise DatasetError(f"{source}: {name} is of dtype {values.dtype}, must be numbers")
        low, high = _whole_numbers(leaf)
        dtype = np.dtype(leaf.dtype)
        if high is None or (values.dtype == dtype and not isinstance(leaf, spaces.MultiBinary)):
            continue
        strange = _no_whole_numbers(values, low, high)
        if strange.size:
            raise DatasetError(
                f"{source}: {name} has the value {strange.flat[0]}: the environment has whole "
                f"numbers from {low} to {high} ({dtype}). Store them as it returns them"
            )


def _whole_numbers(leaf: spaces.Space) -> tuple[int, int | None]:
    """Returns the least and the largest value of a space of whole numbers, else (0, None).

    Values of Discrete and MultiDiscrete are bounded when they become columns.
    """
    dtype: np.dtype[Any] = np.dtype(leaf.dtype)
    if isinstance(leaf, spaces.MultiBinary) or dtype.kind == "b":
        return 0, 1
    if dtype.kind in "iu":
        limits = np.iinfo(dtype.name)
        return int(limits.min), int(limits.max)
    return 0, None


def _no_whole_numbers(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Returns those of the values that are not whole numbers from low to high."""
    if values.dtype.kind == "b":
        return values[:0]
    if values.dtype.kind != "f":
        return values[(values < low) | (values > high)]
    # high may round up as a float. high + 1 is a power of two, which does not.
    inside = (values >= np.float64(low)) & (values < np.float64(high + 1))
    return values[~(inside & (values == np.floor(values)))]


def _masks(
    source: str, arrays: Mapping[str, Any], facts: EnvFacts, rows: int, over: np.ndarray
) -> np.ndarray | None:
    """Returns the masks bool[rows, A], or None if the environment has none.

    over: int64[F], rows after a termination, where no action is taken. A mask that allows none is
    then all true, as those of environments.
    """
    if "action_masks" not in arrays:
        if not facts.has_masks:
            return None
        raise DatasetError(
            f"{source} has no action_masks, and the environment has them: without them, targets "
            "would use forbidden actions"
        )
    masks = np.asarray(arrays["action_masks"])
    if masks.shape != (rows, facts.num_actions) or masks.dtype.kind not in "biu":
        raise DatasetError(
            f"{source}: action_masks has shape {masks.shape} and dtype {masks.dtype}, must be "
            f"bool of shape {(rows, facts.num_actions)}"
        )
    masks = masks.astype(np.bool_)
    masks[over] |= ~masks[over].any(1, keepdims=True)
    if not masks.any(1).all():
        at = np.flatnonzero(~masks.any(1))[0]
        raise DatasetError(
            f"{source}: action_masks {at} is all false: each observation needs an allowed action"
        )
    return masks if facts.has_masks else None
