"""Batch and the interfaces of the replay: appended steps and observation stores.

Dimensions: N environments, T rows for each, B batch size, A actions, n steps of a window. A "lane"
is the part of the ring that belongs to one of the N environments.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """One minibatch: NumPy arrays on the host, tensors on the device.

    Attributes:
        obs: [B, *], in the dtype of the store.
        action: int64[B], counted from 0.
        reward: float32[B], the n-step return.
        discount: float32[B], gamma^m for the m rewards summed; 0 after termination.
        next_obs: [B, *], the state to bootstrap from; at a truncation the last observation.
        weight: float32[B], importance weights; ones for uniform sampling.
        index: int64[B], absolute row ids, row * N + lane, which are never reused.
        next_mask: bool[B, A], actions allowed at next_obs; None without masks.
        mask: bool[B, A], actions allowed at obs; None without masks.
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
    """Allocates the host arrays of a batch; num_actions is needed for masks only."""
    obs = np.zeros((2, batch_size, *obs_shape), obs_dtype)
    action, index = np.zeros((2, batch_size), np.int64)
    reward, discount, weight = np.zeros((3, batch_size), np.float32)
    masks = (None, None)
    if num_actions is not None:
        masks = np.ones((2, batch_size, num_actions), np.bool_)
    return Batch(obs[0], action, reward, discount, obs[1], weight, index, *masks)


def new_like(batch: Batch) -> Batch:
    """Allocates arrays with the same shapes and dtypes."""
    masked = None if batch.mask is None else batch.mask.shape[1]
    return new_batch(len(batch.index), batch.obs.shape[1:], batch.obs.dtype, masked)


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """Returns both arrays as one, [2 B, *], if they are adjacent in memory, else None."""
    if first.base is None or first.base is not second.base or first.shape != second.shape:
        return None
    if not (first.flags.c_contiguous and second.flags.c_contiguous):
        return None
    if second.ctypes.data != first.ctypes.data + first.nbytes or first.dtype != second.dtype:
        return None
    # Both are views of one array, so the new view does not reach beyond its memory.
    return np.lib.stride_tricks.as_strided(first, (2 * len(first), *first.shape[1:]))


def require_alike(batch: Batch, laid_out: Batch) -> None:
    """Raises ValueError if an array of batch differs from laid_out in shape, dtype or layout."""
    for name, like in laid_out._asdict().items():
        given = getattr(batch, name)
        if like is not None and (
            given.shape != like.shape or given.dtype != like.dtype or not given.flags.c_contiguous
        ):
            raise ValueError(
                f"{name} of the batch has dtype {given.dtype} and shape {given.shape}, must be "
                f"contiguous {like.dtype} {like.shape}, see new_batch()"
            )


class StepLike(Protocol):
    """One step of the environments: M transitions first, then S episode starts.

    Attributes:
        lanes: int64[M].
        action: int64[M].
        reward: float32[M].
        terminated: bool[M].
        truncated: bool[M].
        next_obs: [M, *]; at an episode end the last observation.
        start_lanes: int64[S].
        start_obs: [S, *], the first observation of each episode.
        next_mask: bool[M, A], actions allowed at next_obs, or None.
        start_mask: bool[S, A], actions allowed at start_obs, or None.
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
    """Memory of the observations; the slot of a row is lane * T + row % T.

    Attributes:
        obs_shape: Shape of one observation.
        obs_dtype: Its dtype.
        stack: K; an observation consists of its own slot and the K - 1 slots before it.
        sample_shape: Shape of what a batch has for an observation: itself, or its slot.
        sample_dtype: Its dtype.
        on_device: Whether a device has the observations, so that a batch has slots.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    stack: int
    on_device: bool

    @property
    def sample_shape(self) -> tuple[int, ...]: ...
    @property
    def sample_dtype(self) -> np.dtype: ...

    @property
    def nbytes(self) -> int: ...
    @property
    def num_slots(self) -> int: ...

    @property
    def by_row(self) -> "ObsStore":
        """The store of what belongs to one row only, as it is saved and loaded."""
        ...

    def begin(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores first observations of episodes, [S, *], in slots int64[S] and those before."""
        ...

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores observations [M, *] in slots int64[M], each after the one in the slot before."""
        ...

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the observations in slots int64[B] to out [B, *]."""
        ...

    def sample(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Writes what a batch has for the observations in slots int64[B] to out."""
        ...
