"""What crosses the replay's border: the sampled batch, the appended step, the stores and samplers.

Dimensions: N environments (lanes), T rows a lane, B batch, A actions, n the n-step horizon.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """One minibatch; NumPy arrays on the host, tensors on the device, same fields, same order.

    obs        [B, *] as stored
    action     [B] int64, counted from 0
    reward     [B] float32, the n-step return
    discount   [B] float32, gamma^m over the m rewards summed; 0 after termination
    next_obs   [B, *] the state to bootstrap from (the true last one where an episode was cut)
    weight     [B] float32, importance weights; ones if sampling is uniform
    index      [B] int64, absolute row ids: row * N + lane, never reused
    next_mask  [B, A] bool, the actions allowed at next_obs; only where the environment has masks
    mask       [B, A] bool, those allowed at obs; only there too
    """

    obs: Any
    action: Any
    reward: Any
    discount: Any
    next_obs: Any
    weight: Any
    index: Any
    next_mask: Any = None
    mask: Any = None


def new_batch(
    batch_size: int, obs_shape: tuple[int, ...], obs_dtype: Any, num_actions: int | None = None
) -> Batch:
    """Allocate the host arrays of a batch; num_actions where masks are wanted, else None."""
    obs = np.zeros((2, batch_size, *obs_shape), obs_dtype)
    action, index = np.zeros((2, batch_size), np.int64)
    reward, discount, weight = np.zeros((3, batch_size), np.float32)
    masks = (None, None)
    if num_actions is not None:
        masks = np.ones((2, batch_size, num_actions), np.bool_)
    return Batch(obs[0], action, reward, discount, obs[1], weight, index, *masks)


def new_like(batch: Batch) -> Batch:
    """Arrays of the same shapes and types, in memory of their own."""
    masked = None if batch.mask is None else batch.mask.shape[1]
    return new_batch(len(batch.index), batch.obs.shape[1:], batch.obs.dtype, masked)


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """Both as one array [2 B, *], where the second lies right behind the first."""
    if first.base is None or first.base is not second.base or first.shape != second.shape:
        return None
    if not (first.flags.c_contiguous and second.flags.c_contiguous):
        return None
    if second.ctypes.data != first.ctypes.data + first.nbytes or first.dtype != second.dtype:
        return None
    # Both lie in the memory of one array, which this one holds: nothing beyond it is reached.
    return np.lib.stride_tricks.as_strided(first, (2 * len(first), *first.shape[1:]))


def require_alike(batch: Batch, laid_out: Batch) -> None:
    """Raises ValueError where an array of batch is not laid out as that of the other."""
    for name, like in laid_out._asdict().items():
        given = getattr(batch, name)
        if like is not None and (
            given.shape != like.shape or given.dtype != like.dtype or not given.flags.c_contiguous
        ):
            raise ValueError(
                f"{name} of the batch is {given.dtype} {given.shape}: contiguous {like.dtype} "
                f"{like.shape} expected, see new_batch()"
            )


class StepLike(Protocol):
    """What really happened in one call: M transitions first, then S episode starts.

    lanes [M] int64 · action [M] int64 · reward [M] float32 · terminated, truncated [M] bool
    next_obs [M, *] the true last observation where an episode ended
    start_lanes [S] int64 · start_obs [S, *] the first observation of an episode
    next_mask [M, A], start_mask [S, A] bool: the actions allowed there, or None
    """

    @property
    def lanes(self) -> np.ndarray: ...
    @property
    def action(self) -> np.ndarray: ...
    @property
    def reward(self) -> np.ndarray: ...
    @property
    def terminated(self) -> np.ndarray: ...
    @property
    def truncated(self) -> np.ndarray: ...
    @property
    def next_obs(self) -> np.ndarray: ...
    @property
    def start_lanes(self) -> np.ndarray: ...
    @property
    def start_obs(self) -> np.ndarray: ...
    @property
    def next_mask(self) -> np.ndarray | None: ...
    @property
    def start_mask(self) -> np.ndarray | None: ...


class ObsStore(Protocol):
    """Where observations live. A slot is lane * T + row % T.

    stack  K: an observation lies in its own slot and the K - 1 before it in its lane
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    stack: int

    @property
    def nbytes(self) -> int: ...
    @property
    def num_slots(self) -> int: ...

    @property
    def by_row(self) -> "ObsStore":
        """The store of what each row keeps by itself: what is saved of it, and written back."""
        ...

    def begin(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Keep obs [S, *], the first of their episodes, in slots [S] int64 and those before."""
        ...

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Keep obs [M, *], each following the one of the slot before, in slots [M] int64."""
        ...

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copy the observations in slots [B] int64 into out [B, *]."""
        ...
