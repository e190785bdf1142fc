"""Staging: host batches that the replay fills, and device batches that the learner reads.

On the CPU they share memory. For a CUDA device the host memory is pinned, and upload() copies it.
"""

from typing import NamedTuple

import numpy as np
import torch

from fastdqn.learning.cuda_streams import DeviceStreams, streams_for
from fastdqn.replay.batch import Batch, new_like
from fastdqn.state_dict import State, StateError, take_array


def assign(tensor: torch.Tensor, values: np.ndarray) -> None:
    """Copies host values to a tensor of the same shape on any device."""
    tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)), non_blocking=True)


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """Returns a host copy of a tensor; waits for the device."""
    return np.array(tensor.detach().cpu().numpy())


def from_host(state: State, name: str, tensor: torch.Tensor) -> None:
    """Copies a field of a state dict to a tensor of its shape; raises StateError."""
    like = np.empty(tuple(tensor.shape), np.float32)
    tensor.copy_(torch.from_numpy(take_array(state, name, like)))


def generator_state(generator: torch.Generator) -> np.ndarray:
    """Returns the state of a torch generator as uint8[S]."""
    return np.array(generator.get_state().numpy())


def load_generator(state: State, name: str, generator: torch.Generator) -> None:
    """Loads a state from generator_state(); raises StateError."""
    given = take_array(state, name, generator_state(generator))
    try:
        generator.set_state(torch.from_numpy(given))
    except RuntimeError as error:
        raise StateError(f"{name} is not the state of a generator: {error}") from None


class Staging:
    """Batches on the host and their copies on the device.

    Attributes:
        host: Batch of NumPy arrays to fill for one update; hosts(K) for K updates at once.
        device: Batch of tensors with the values of the last upload; upload() returns those of K.

    Args:
        batch: A batch as Replay.new_batch() makes it. On the CPU the learner reads its memory.
        device: The learner's device.
        together: K, the most updates whose batches are uploaded in one copy.
        slots: Number of buffers, at least two on a CUDA device. One is filled and copied while the
            learner reads the other. hosts() waits for the last copy from its slot, and a copy
            waits until the learner has read the slot.
        streams: Streams of the device; None creates them.
    """

    def __init__(
        self,
        batch: Batch,
        device: torch.device,
        together: int = 1,
        slots: int = 1,
        streams: DeviceStreams | None = None,
    ):
        self.together = together
        self.streams = streams or streams_for(device)
        if device.type == "cpu" and streams is None:
            self._slots = [
                _shared(batch if i == 0 else new_like(batch), together) for i in range(slots)
            ]
        else:
            self._slots = [_Slot(batch, together, self.streams) for _ in range(max(2, slots))]
        self._turn = self._uploaded = 0

    @property
    def host(self) -> Batch:
        """The arrays to fill for one update; waits until their last upload is complete."""
        return self.hosts(1)[0]

    @property
    def device(self) -> Batch:
        return self._slots[self._uploaded].devices[0]

    @property
    def all_devices(self) -> list[tuple[Batch, ...]]:
        """The batches [K] of each slot; upload() returns the first ones of a slot."""
        return [slot.devices for slot in self._slots]

    def hosts(self, count: int) -> tuple[Batch, ...]:
        """Returns the arrays to fill for `count` updates; waits until their upload is complete."""
        slot = self._slots[self._turn]
        if slot.pinned is not None:
            self.streams.wait(slot.copied)
        return slot.hosts[:count]

    def last_hosts(self, count: int) -> tuple[Batch, ...]:
        """Returns the batches of the last upload; they stay valid until other slots were used."""
        return self._slots[self._uploaded].hosts[:count]

    def upload(self, count: int = 1) -> tuple[Batch, ...]:
        """Starts the copy of `count` batches and returns them as they are on the device."""
        slot = self._slots[self._turn]
        if slot.pinned is not None and slot.block is not None:
            # All reads of the previous slot are enqueued by now, and none of this one.
            self.streams.record(self._slots[self._turn - 1].read)
            end = count * slot.bytes_each
            self.streams.upload(slot.block[:end], slot.pinned[:end], slot.read, slot.copied)
        self._uploaded, self._turn = self._turn, (self._turn + 1) % len(self._slots)
        return slot.devices[:count]

    @staticmethod
    def download(tensor: torch.Tensor) -> np.ndarray:
        """Copies a device tensor to the host; waits for the device."""
        return tensor.cpu().numpy()


class _Slot:
    """Batches [K] in one block of bytes on host and device, so that one copy transfers them all.

    Event `copied` is recorded after the last copy, and `read` after the learner has read it.
    """

    def __init__(self, batch: Batch, together: int, streams: DeviceStreams):
        self.bytes_each = _laid_out(batch)[1]
        self.pinned: torch.Tensor | None = streams.host_bytes(together * self.bytes_each)
        self.block: torch.Tensor | None = streams.device_bytes(together * self.bytes_each)
        host = self.pinned.numpy()
        starts = range(0, together * self.bytes_each, self.bytes_each)
        self.hosts = tuple(_views(batch, host[i : i + self.bytes_each]) for i in starts)
        self.devices = tuple(_views_of(batch, self.block[i : i + self.bytes_each]) for i in starts)
        self.copied, self.read = streams.event(), streams.event()
        streams.record(self.read)  # the first copy waits until the block is zero


class _SharedSlot(NamedTuple):
    """A slot on the CPU, where the learner reads the host arrays."""

    hosts: tuple[Batch, ...]
    devices: tuple[Batch, ...]
    pinned: None = None
    block: None = None
    bytes_each: int = 0
    copied: None = None
    read: None = None


def _shared(batch: Batch, together: int) -> _SharedSlot:
    hosts = (batch, *(new_like(batch) for _ in range(together - 1)))
    return _SharedSlot(hosts, tuple(map(_as_tensors, hosts)))


def _as_tensors(batch: Batch) -> Batch:
    return Batch(*(None if array is None else torch.from_numpy(array) for array in batch))


def _laid_out(batch: Batch) -> tuple[dict[str, int], int]:
    """Returns the offset of each array of a batch in its block, and the block's length, in bytes.

    next_obs follows obs directly, so that one gather can fill both. Others are aligned to 64 bytes.
    """
    arrays = batch._asdict()
    starts, end = {}, 0
    for name in ("obs", "next_obs", *(n for n in arrays if n not in ("obs", "next_obs"))):
        if arrays[name] is not None:
            starts[name] = end if name == "next_obs" else -(-end // 64) * 64
            end = starts[name] + arrays[name].nbytes
    return starts, -(-end // 64) * 64


def _views(batch: Batch, block: np.ndarray) -> Batch:
    """Returns the arrays of a batch as views of a host block, uint8."""
    starts, _ = _laid_out(batch)
    given = batch._asdict()
    return Batch(
        **{
            name: block[at : at + given[name].nbytes]
            .view(given[name].dtype)
            .reshape(given[name].shape)
            for name, at in starts.items()
        }
    )


def _views_of(batch: Batch, block: torch.Tensor) -> Batch:
    """Returns the tensors of a batch as views of a device block."""
    starts, _ = _laid_out(batch)
    like = _as_tensors(batch)._asdict()
    return Batch(
        **{
            name: block[at : at + like[name].nbytes].view(like[name].dtype).view(like[name].shape)
            for name, at in starts.items()
        }
    )
