"""FrameStore: stores each frame of stacked observations once."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.replay.row_store import HostStore, RowStore


class UnstackedError(ValueError):
    """An observation is not a stack of frames as declared."""


class FrameStore(HostStore):
    """Preallocated frames for num_lanes * rows slots.

    The first observation of an episode takes K rows, with whatever frames it has; no padding is
    assumed. Each later one adds its newest frame. A stack is always the last K rows of its lane.

    The ring needs the same stack: with rows = rows_per_lane(buffer_size, N, n_steps, K), use
    Ring(N, rows, K) and FrameStore(N, rows, (K, 84, 84), np.uint8).

    Args:
        num_lanes: Number of environments.
        rows: Rows for each environment.
        obs_shape: (K, *frame), K frames on the first axis, newest last.
        obs_dtype: Dtype of a frame.

    Raises:
        ValueError: obs_shape has no first axis, a frame is empty, or rows is smaller than K.
    """

    def __init__(self, num_lanes: int, rows: int, obs_shape: tuple[int, ...], obs_dtype):
        self.obs_shape, self.obs_dtype = tuple(obs_shape), np.dtype(obs_dtype)
        if not self.obs_shape or not 1 <= self.obs_shape[0] <= rows:
            raise ValueError(
                f"observations of shape {self.obs_shape} are not a stack of 1 to {rows} frames, "
                "the rows of an environment: use a RowStore (--store rows)"
            )
        self.stack = self.obs_shape[0]
        self.by_row = RowStore(num_lanes, rows, self.obs_shape[1:], obs_dtype)
        self._rows, self._turn = rows, 0
        slots, empty = np.empty(0, np.int64), self.by_row.words[:0]
        _begin(self.by_row.words, rows, self.stack, slots, empty)
        _append(self.by_row.words, rows, self.stack, slots, empty, 0)
        _gather(self.by_row.words, rows, self.stack, slots, empty)

    @property
    def nbytes(self) -> int:
        return self.by_row.nbytes

    @property
    def num_slots(self) -> int:
        return self.by_row.num_slots

    def begin(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores all frames of obs [S, K, *] in slots int64[S] and the K - 1 slots before each."""
        words = self._as_words(slots, obs)
        _begin(self.by_row.words, self._rows, self.stack, slots, words)

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores the newest frame of each of obs [M, K, *] in slots int64[M].

        In each call, the older frames of one observation are compared with the stored ones.

        Raises:
            UnstackedError: They differ; names the environment.
        """
        words = self._as_words(slots, obs)
        checked = self._turn % max(1, len(slots))
        self._turn += 1
        if not _append(self.by_row.words, self._rows, self.stack, slots, words, checked):
            raise UnstackedError(
                f"env {slots[checked] // self._rows}: an observation does not repeat the newest "
                f"{self.stack - 1} of the {self.stack} frames of the previous one, newest last on "
                "the first axis, so frames cannot be stored once. Use --store rows"
            )

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the stacks that end in slots int64[B] to out [B, K, *], C-contiguous."""
        words = self.by_row.words_of(out)
        _gather(self.by_row.words, self._rows, self.stack, slots, words)

    def _as_words(self, slots: np.ndarray, obs: np.ndarray) -> np.ndarray:
        if obs.shape != (len(slots), *self.obs_shape):
            raise ValueError(
                f"observations have shape {obs.shape}, must be {(len(slots), *self.obs_shape)}"
            )
        return self.by_row.words_of(np.ascontiguousarray(obs, self.obs_dtype))


@kernel
def _slot_before(slot, steps, rows):
    """Returns the slot of the row `steps` earlier in the same lane; steps < rows."""
    return slot - steps if slot % rows >= steps else slot - steps + rows


@kernel
def _begin(frames, rows, stack, slots, words):
    size = frames.shape[1]
    for i in range(len(slots)):
        for plane in range(stack):
            slot = _slot_before(slots[i], stack - 1 - plane, rows)
            _copy(words[i, plane * size : (plane + 1) * size], frames[slot])


@kernel
def _append(frames, rows, stack, slots, words, checked):
    """Writes the newest frames; returns whether the older ones of one observation are stored."""
    size = frames.shape[1]
    for i in range(len(slots)):
        _copy(words[i, (stack - 1) * size :], frames[slots[i]])
    if checked >= len(slots):
        return True
    for plane in range(stack - 1):
        kept = frames[_slot_before(slots[checked], stack - 1 - plane, rows)]
        given = words[checked, plane * size : (plane + 1) * size]
        differing = np.uint64(0)  # compares all words, since a loop with an early exit is slower
        for w in range(size):
            differing |= np.uint64(kept[w] ^ given[w])
        if differing != 0:
            return False
    return True


@kernel
def _gather(frames, rows, stack, slots, words):
    size = frames.shape[1]
    flat = frames.reshape(-1)
    for i in range(len(slots)):
        first = _slot_before(slots[i], stack - 1, rows)
        # The rows of a stack are adjacent, except where they wrap around the end of the lane.
        ahead = min(stack, rows - first % rows) * size
        _copy(flat[first * size :], words[i, :ahead])
        _copy(flat[(first - first % rows) * size :], words[i, ahead:])


@kernel
def _copy(source, out):
    # Plain indices from 0: with an offset Numba would check each for a negative index, which
    # halves the speed.
    for w in range(len(out)):
        out[w] = source[w]
