"""Staging: the batches that the replay fills and the batches that the learner reads.

On the CPU they are the same memory. For a device the host side is pinned and upload() copies.
"""

from typing import NamedTuple

import numpy as np
import torch

from fastdqn.learning.cuda_streams import Queues, queues_of
from fastdqn.replay.batch import Batch, new_like
from fastdqn.state_dict import State, StateError, take_array


def assign(tensor: torch.Tensor, values: np.ndarray) -> None:
    """Copy host values into a tensor of the same shape, on whatever device."""
    tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)), non_blocking=True)


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's values; this waits for the device."""
    return np.array(tensor.detach().cpu().numpy())


def from_host(state: State, name: str, tensor: torch.Tensor) -> None:
    """Copy a field of a state into a tensor of its shape. Raises StateError."""
    like = np.empty(tuple(tensor.shape), np.float32)
    tensor.copy_(torch.from_numpy(take_array(state, name, like)))


def generator_state(generator: torch.Generator) -> np.ndarray:
    """The state of a torch generator as bytes [S] uint8."""
    return np.array(generator.get_state().numpy())


def load_generator(state: State, name: str, generator: torch.Generator) -> None:
    """Go on from bytes that generator_state() gave. Raises StateError."""
    given = take_array(state, name, generator_state(generator))
    try:
        generator.set_state(torch.from_numpy(given))
    except RuntimeError as error:
        raise StateError(f"{name} is no state of a generator: {error}") from None


class Staging:
    """Moves batches from the replay to the device.

    host    Batch of NumPy arrays to fill; hosts(K) for updates that come together
    device  Batch of tensors with the values of the last upload; upload() gives those of K

    batch     as Replay.new_batch() made it; on the CPU its memory is what the learner reads
    together  K updates whose batches go up at once, as one copy
    slots     that take turns: on a device two at least, so that one is filled, and copied, while
              the learner reads the other. hosts() waits until the last copy out of its slot is
              over, and a copy until the learner has read what was there.
    queues    of the device; None: its own
    """

    def __init__(
        self,
        batch: Batch,
        device: torch.device,
        together: int = 1,
        slots: int = 1,
        queues: Queues | None = None,
    ):
        self.together = together
        self.queues = queues or queues_of(device)
        if device.type == "cpu" and queues is None:
            self._slots = [
                _shared(batch if i == 0 else new_like(batch), together) for i in range(slots)
            ]
        else:
            self._slots = [_Slot(batch, together, self.queues) for _ in range(max(2, slots))]
        self._turn = self._uploaded = 0

    @property
    def host(self) -> Batch:
        """The arrays to fill for one update; waits until their last upload is over."""
        return self.hosts(1)[0]

    @property
    def device(self) -> Batch:
        return self._slots[self._uploaded].devices[0]

    @property
    def all_devices(self) -> list[tuple[Batch, ...]]:
        """The batches [K] of each slot: what upload() gives is the beginning of one of them."""
        return [slot.devices for slot in self._slots]

    def hosts(self, count: int) -> tuple[Batch, ...]:
        """The arrays to fill for so many updates; waits until their last upload is over."""
        slot = self._slots[self._turn]
        if slot.pinned is not None:
            self.queues.wait(slot.copied)
        return slot.hosts[:count]

    def last_hosts(self, count: int) -> tuple[Batch, ...]:
        """What the last upload read; it stays until the other slots have had their turn."""
        return self._slots[self._uploaded].hosts[:count]

    def upload(self, count: int = 1) -> tuple[Batch, ...]:
        """Set the copy of so many batches going, and give them as they are on the device."""
        slot = self._slots[self._turn]
        if slot.pinned is not None and slot.block is not None:
            # All that reads the slot before was asked for by now, and nothing that reads this one.
            self.queues.put(self._slots[self._turn - 1].read)
            end = count * slot.bytes_each
            self.queues.upload(slot.block[:end], slot.pinned[:end], slot.read, slot.copied)
        self._uploaded, self._turn = self._turn, (self._turn + 1) % len(self._slots)
        return slot.devices[:count]

    @staticmethod
    def download(tensor: torch.Tensor) -> np.ndarray:
        """Bring a device tensor to the host; this waits for the device."""
        return tensor.cpu().numpy()


class _Slot:
    """hosts, devices [K] batches over one block of bytes each, so that one copy brings all of them.

    copied  reached when the last copy is over; read  when the learner has read what it brought
    """

    def __init__(self, batch: Batch, together: int, queues: Queues):
        self.bytes_each = _laid_out(batch)[1]
        self.pinned: torch.Tensor | None = queues.host_bytes(together * self.bytes_each)
        self.block: torch.Tensor | None = queues.device_bytes(together * self.bytes_each)
        host = self.pinned.numpy()
        starts = range(0, together * self.bytes_each, self.bytes_each)
        self.hosts = tuple(_views(batch, host[i : i + self.bytes_each]) for i in starts)
        self.devices = tuple(_views_of(batch, self.block[i : i + self.bytes_each]) for i in starts)
        self.copied, self.read = queues.mark(), queues.mark()


class _SharedSlot(NamedTuple):
    """On the CPU the learner reads what was filled."""

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
    """Where each array of a batch begins in its block, and the length of that: bytes.

    next_obs lies right behind obs, where one gather fills both; the others on lines of 64 bytes.
    """
    arrays = batch._asdict()
    starts, end = {}, 0
    for name in ("obs", "next_obs", *(n for n in arrays if n not in ("obs", "next_obs"))):
        if arrays[name] is not None:
            starts[name] = end if name == "next_obs" else -(-end // 64) * 64
            end = starts[name] + arrays[name].nbytes
    return starts, -(-end // 64) * 64


def _views(batch: Batch, block: np.ndarray) -> Batch:
    """The arrays of a batch in a block [bytes] uint8 of the host's."""
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
    """The same in a block of a device's."""
    starts, _ = _laid_out(batch)
    like = _as_tensors(batch)._asdict()
    return Batch(
        **{
            name: block[at : at + like[name].nbytes].view(like[name].dtype).view(like[name].shape)
            for name, at in starts.items()
        }
    )
