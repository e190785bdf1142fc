"""DeviceStore: observations of the replay in the memory of the learner's device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdqn.learning.cuda_streams import DeviceStreams, Event, streams_for
from fastdqn.replay import UnstackedError
from fastdqn.replay.batch import Batch

# The most rows, and bytes of frames, that one copy moves between host and device.
_CHUNK, _CHUNK_BYTES = 1024, 1 << 23


class DeviceStore:
    """Preallocated observations for num_lanes * rows slots, on a device.

    Ring and sampler stay on the host. A sampled batch has the slots of its observations, and
    observed() gathers them on the device, also within a graph. New frames are written in the stream
    of the updates, so that they come after all updates that were launched before.

    The layout is that of a FrameStore if stack is above 1, and that of a RowStore otherwise.

    Args:
        num_lanes: Number of environments.
        rows: Rows for each environment.
        obs_shape: Shape of an observation, (K, *frame) if stacked.
        obs_dtype: Its dtype.
        stack: K, frames of an observation, newest last. 1: an observation is not stacked.
        device: The device.
        streams: Streams of the device; None creates them.

    Raises:
        ValueError: obs_shape does not begin with stack.
    """

    on_device = True

    def __init__(
        self,
        num_lanes: int,
        rows: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype,
        stack: int,
        device: torch.device,
        streams: DeviceStreams | None = None,
    ):
        if stack > 1 and obs_shape[:1] != (stack,):
            raise ValueError(f"observations of shape {obs_shape} are not {stack} stacked frames")
        self.obs_shape, self.obs_dtype, self.stack = tuple(obs_shape), np.dtype(obs_dtype), stack
        self._rows, self._streams = rows, streams or streams_for(device)
        shape = self.obs_shape[1:] if stack > 1 else self.obs_shape
        dtype = torch.from_numpy(np.empty(0, self.obs_dtype)).dtype
        self.frames = torch.zeros(num_lanes * rows, *shape, dtype=dtype, device=device)
        # [slots, K], the slots of the frames of an observation that ends in a slot.
        self._stacks: Tensor | None = None
        if stack > 1:
            every = np.arange(num_lanes * rows)
            self._stacks = torch.from_numpy(self._stack_of(every)).to(device)
        self._chunk = max(1, min(_CHUNK, _CHUNK_BYTES // self.frames[0].nbytes))
        self._uploads = [_Upload(self, self._streams, self._chunk) for _ in range(2)]
        self._turn = self._checks = 0
        self._watched: tuple[int, np.ndarray] | None = None  # a slot, and its observation

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + (0 if self._stacks is None else self._stacks.nbytes)

    @property
    def by_row(self) -> Any:
        return self if self.stack == 1 else _SingleFrames(self)

    @property
    def num_slots(self) -> int:
        return len(self.frames)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def sample_dtype(self) -> np.dtype:
        return np.dtype(np.int64)

    def begin(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores first observations of episodes, [S, *], with all frames, in int64[S] slots."""
        self._require_shape(slots, obs)
        if self.stack == 1:
            self.put(slots, obs)
        else:
            self.put(self._stack_of(slots).reshape(-1), obs.reshape(-1, *obs.shape[2:]))

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Stores the newest frame of each of obs [M, *] in slots int64[M].

        In each call, the older frames of one observation are compared with an earlier observation.

        Raises:
            UnstackedError: They differ; names the environment.
        """
        self._require_shape(slots, obs)
        if self.stack == 1:
            self.put(slots, obs)
            return
        self._require_stacked(slots, obs)
        self.put(slots, obs[:, -1])

    def sample(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Writes what a batch has in place of observations: their slots, int64[B]."""
        out[:] = slots

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the observations in slots int64[B] to out [B, *] on the host; waits for them."""
        self.download(self.observations, slots, out)

    def observed(self, batch: Batch) -> Batch:
        """Returns a device batch with its observations in place of their slots."""
        both = self.observations(torch.cat([batch.obs, batch.next_obs]))
        obs, next_obs = both.split(len(batch.action))
        return batch._replace(obs=obs, next_obs=next_obs)

    def put(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Writes frames [M, *frame] to slots int64[M], asynchronously."""
        frames = np.ascontiguousarray(frames, self.obs_dtype)
        for start in range(0, len(slots), self._chunk):
            end = start + self._chunk
            self._uploads[self._turn].send(slots[start:end], frames[start:end])
            self._turn = 1 - self._turn

    def download(
        self, select: Callable[[Tensor], Tensor], slots: np.ndarray, out: np.ndarray
    ) -> None:
        """Copies select(slots) to out on the host, in parts, and waits for them."""
        for start in range(0, len(slots), self._chunk):
            end = start + self._chunk
            chunk = torch.from_numpy(np.ascontiguousarray(slots[start:end]))
            out[start:end] = select(chunk.to(self.frames.device)).cpu().numpy()

    def observations(self, slots: Tensor) -> Tensor:
        """Gathers the observations in slots int64[B] of the device to [B, *]."""
        if self._stacks is None:
            return self.frames.index_select(0, slots)
        stacks = self._stacks.index_select(0, slots).view(-1)
        return self.frames.index_select(0, stacks).view(len(slots), *self.obs_shape)

    def _stack_of(self, slots: np.ndarray) -> np.ndarray:
        """Returns int64[M, K], the slots of the K rows of a lane that end in each of slots."""
        first = slots - slots % self._rows
        back = np.arange(1 - self.stack, 1)
        return first[:, None] + (slots[:, None] - first[:, None] + back) % self._rows

    def _require_stacked(self, slots: np.ndarray, obs: np.ndarray) -> None:
        """Compares one observation with the one before, and keeps one for the next call."""
        if not len(slots):
            return
        if self._watched is not None:
            slot, before = self._watched
            lane, row = divmod(slot, self._rows)
            here = np.flatnonzero(slots == lane * self._rows + (row + 1) % self._rows)
            if len(here) and not np.array_equal(obs[here[0], :-1], before[1:]):
                raise UnstackedError(
                    f"env {lane}: an observation does not repeat the newest {self.stack - 1} of "
                    f"the {self.stack} frames of the previous one, newest last on the first axis, "
                    "so frames cannot be stored once. Use --store rows"
                )
        chosen = self._checks % len(slots)
        self._checks += 1
        self._watched = int(slots[chosen]), np.array(obs[chosen])

    def _require_shape(self, slots: np.ndarray, obs: np.ndarray) -> None:
        if obs.shape != (len(slots), *self.obs_shape):
            raise ValueError(
                f"observations have shape {obs.shape}, must be {(len(slots), *self.obs_shape)}"
            )


class _SingleFrames:
    """The frames of a DeviceStore, one for each row, as they are saved and loaded."""

    stack = 1

    def __init__(self, store: DeviceStore):
        self._store = store
        self.obs_shape, self.obs_dtype = store.obs_shape[1:], store.obs_dtype

    @property
    def nbytes(self) -> int:
        return self._store.frames.nbytes

    @property
    def num_slots(self) -> int:
        return self._store.num_slots

    def write(self, slots: np.ndarray, obs: np.ndarray) -> None:
        self._store.put(slots, obs)

    begin = write

    def gather(self, slots: np.ndarray, out: np.ndarray) -> None:
        store = self._store
        store.download(lambda chunk: store.frames.index_select(0, chunk), slots, out)


class _Upload:
    """Pinned and device memory for some frames with their slots, and one copy of both."""

    def __init__(self, store: DeviceStore, streams: DeviceStreams, frames: int):
        self._store, self._streams = store, streams
        frame = store.frames[0]
        self._frame_bytes = frame.nbytes
        count = frames * (8 + frame.nbytes)
        self._pinned, self._there = streams.host_bytes(count), streams.device_bytes(count)
        self._copied: Event = streams.event()

    def send(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Copies frames [M, *] to their slots, int64[M]."""
        ids, end = 8 * len(slots), len(slots) * (8 + self._frame_bytes)
        self._streams.wait(self._copied)  # of the last use of the pinned memory
        host = self._pinned.numpy()
        host[:ids].view(np.int64)[:] = slots
        host[ids:end] = frames.reshape(-1).view(np.uint8)
        self._there[:end].copy_(self._pinned[:end], non_blocking=True)
        self._streams.record(self._copied)
        target = self._store.frames
        moved = self._there[ids:end].view(target.dtype).view(len(slots), *target.shape[1:])
        target.index_copy_(0, self._there[:ids].view(torch.int64), moved)
