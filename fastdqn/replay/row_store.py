"""RowStore: stores one whole observation in each row."""

from abc import ABC, abstractmethod

import numpy as np

from fastdqn.kernels.jit import kernel


class HostStore(ABC):
    """A store of which a batch has the observations themselves, not their slots."""

    on_device = False
    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype

    @abstractmethod
    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the observations in slots int64[B] to out [B, *], C-contiguous."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.obs_shape

    @property
    def sample_dtype(self) -> np.dtype:
        return self.obs_dtype

    def sample(self, slots: np.ndarray, out: np.ndarray) -> None:
        self.gather(slots, out)


class RowStore(HostStore):
    """Preallocated observations for num_lanes * rows slots.

    Args:
        num_lanes: Number of environments.
        rows: Rows for each environment.
        obs_shape: Shape of one observation.
        obs_dtype: Its dtype.

    Attributes:
        word: Unsigned integer dtype in which observations are copied.
        words: [slots, W], the memory in words.

    Raises:
        ValueError: An observation is empty.
    """

    stack = 1

    def __init__(self, num_lanes: int, rows: int, obs_shape: tuple[int, ...], obs_dtype):
        self.obs_shape, self.obs_dtype = tuple(obs_shape), np.dtype(obs_dtype)
        nbytes = int(np.prod(self.obs_shape, dtype=np.int64)) * self.obs_dtype.itemsize
        if nbytes == 0:
            raise ValueError(f"observations of shape {self.obs_shape} are empty")
        # The largest word that divides an observation: copying 8-byte words runs at memory speed,
        # copying bytes at a sixth of it.
        self.word = np.dtype(f"u{next(size for size in (8, 4, 2, 1) if nbytes % size == 0)}")
        self.words = np.zeros((num_lanes * rows, nbytes // self.word.itemsize), self.word)
        empty = np.empty(0, np.int64)
        _scatter(self.words, empty, self.words[:0])
        _gather(self.words, empty, self.words[:0])

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    @property
    def num_slots(self) -> int:
        return len(self.words)

    @property
    def by_row(self) -> "RowStore":
        return self

    def begin(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores first observations of episodes as write() does."""
        self.write(slots, obs)

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores obs [M, *] in slots int64[M]; raises ValueError if the shape is wrong."""
        if obs.shape != (len(slots), *self.obs_shape):
            raise ValueError(
                f"observations have shape {obs.shape}, must be {(len(slots), *self.obs_shape)}"
            )
        obs = np.ascontiguousarray(obs, self.obs_dtype)
        _scatter(self.words, slots, self.words_of(obs))

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the observations in slots int64[B] to out [B, *], C-contiguous."""
        _gather(self.words, slots, self.words_of(out))

    def words_of(self, array: np.ndarray) -> np.ndarray:
        """Views a C-contiguous array [M, *] of the store's dtype as words [M, W]."""
        return array.reshape(len(array), -1).view(self.word) if len(array) else self.words[:0]


@kernel
def _scatter(data, slots, words):
    for i in range(len(slots)):
        for w in range(data.shape[1]):
            data[slots[i], w] = words[i, w]


@kernel
def _gather(data, slots, words):
    for i in range(len(slots)):
        for w in range(data.shape[1]):
            words[i, w] = data[slots[i], w]
