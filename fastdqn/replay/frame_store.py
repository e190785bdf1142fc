"""FrameStore: observations that are stacks of frames, each frame kept once."""

import numpy as np

from fastdqn.kernels.jit import kernel
from fastdqn.replay.row_store import RowStore


class UnstackedError(ValueError):
    """An observation is not the stack of frames that it was declared to be."""


class FrameStore:
    """Preallocated frames for num_lanes * rows slots; the ring needs the same stack: with
    rows = rows_per_lane(buffer_size, N, n_steps, K), Ring(N, rows, K) beside
    FrameStore(N, rows, (K, 84, 84), np.uint8).

    obs_shape  (K, *frame): K frames on the first axis, newest last
    obs_dtype  of a frame

    An episode's first observation is K rows, of whatever frames it has: no padding is assumed.
    Each later one adds its newest frame. So a stack is always the last K rows of its lane.
    Raises ValueError where obs_shape has no first axis, a frame has no elements, or a lane has
    fewer rows than a stack.
    """

    def __init__(self, num_lanes: int, rows: int, obs_shape: tuple[int, ...], obs_dtype):
        self.obs_shape, self.obs_dtype = tuple(obs_shape), np.dtype(obs_dtype)
        if not self.obs_shape or not 1 <= self.obs_shape[0] <= rows:
            raise ValueError(
                f"observations of shape {self.obs_shape} are no stack of 1 to {rows} frames, the "
                "rows of a lane: keep them in a RowStore"
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
        """Keep all frames of obs [S, K, *] in slots [S] int64 and the K - 1 before each."""
        words = self._given(slots, obs)
        _begin(self.by_row.words, self._rows, self.stack, slots, words)

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Keep the newest frame of each of obs [M, K, *] in slots [M] int64.

        The other frames of one of them, each in its turn, are compared with what is kept.
        Raises UnstackedError naming the lane where they are not those of the observation before.
        """
        words = self._given(slots, obs)
        looked_at = self._turn % max(1, len(slots))
        self._turn += 1
        if not _append(self.by_row.words, self._rows, self.stack, slots, words, looked_at):
            raise UnstackedError(
                f"lane {slots[looked_at] // self._rows}: an observation does not repeat the newest "
                f"{self.stack - 1} of the {self.stack} frames of the one before it, newest last "
                "on its first axis, so frames cannot be kept once: --store rows"
            )

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copy the stacks that end in slots [B] int64 into out [B, K, *], C-contiguous."""
        words = self.by_row.words_of(out)
        _gather(self.by_row.words, self._rows, self.stack, slots, words)

    def _given(self, slots: np.ndarray, obs: np.ndarray) -> np.ndarray:
        if obs.shape != (len(slots), *self.obs_shape):
            raise ValueError(
                f"observations have shape {obs.shape}: {(len(slots), *self.obs_shape)} expected"
            )
        return self.by_row.words_of(np.ascontiguousarray(obs, self.obs_dtype))


@kernel
def _slot_before(slot, steps, rows):
    """The slot of so many rows earlier in the same lane, fewer than a lane has."""
    return slot - steps if slot % rows >= steps else slot - steps + rows


@kernel
def _begin(frames, rows, stack, slots, words):
    size = frames.shape[1]
    for i in range(len(slots)):
        for plane in range(stack):
            slot = _slot_before(slots[i], stack - 1 - plane, rows)
            _copy(words[i, plane * size : (plane + 1) * size], frames[slot])


@kernel
def _append(frames, rows, stack, slots, words, looked_at):
    """Write the newest planes; returns whether those before it, at one position, are in place."""
    size = frames.shape[1]
    for i in range(len(slots)):
        _copy(words[i, (stack - 1) * size :], frames[slots[i]])
    if looked_at >= len(slots):
        return True
    for plane in range(stack - 1):
        kept = frames[_slot_before(slots[looked_at], stack - 1 - plane, rows)]
        given = words[looked_at, plane * size : (plane + 1) * size]
        differing = np.uint64(0)  # all words are looked at: a loop that ends early is slower
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
        # The rows of a stack lie side by side, but for those that reach around the lane's end.
        ahead = min(stack, rows - first % rows) * size
        _copy(flat[first * size :], words[i, :ahead])
        _copy(flat[(first - first % rows) * size :], words[i, ahead:])


@kernel
def _copy(source, out):
    # Indices that count from 0 by themselves: an offset added to them halves the speed, for
    # Numba would ask of each whether it counts from the end.
    for w in range(len(out)):
        out[w] = source[w]
