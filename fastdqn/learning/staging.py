"""Staging: the batch that the replay fills and the batch that the learner reads.

On the CPU they are the same memory. For a device the host side is pinned and upload() copies.
"""

import numpy as np
import torch

from fastdqn.plain import State, StateError, take_array
from fastdqn.replay.batch import Batch


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
    """host  Batch of NumPy arrays; device  Batch of tensors with the same values after upload().

    batch   as Replay.new_batch() made it; its memory is used on the CPU, replaced by pinned
            memory for a device
    """

    def __init__(self, batch: Batch, device: torch.device):
        tensors = [None if array is None else torch.from_numpy(array) for array in batch]
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._uploaded = None
        if device.type == "cpu":
            self._host, self.device = batch, Batch(*tensors)
            return
        pinned = [None if t is None else t.pin_memory() for t in tensors]
        self._host = Batch(*(None if t is None else t.numpy() for t in pinned))
        self.device = Batch(*(None if t is None else t.to(device) for t in pinned))
        self._copies = [
            (to, source)
            for to, source in zip(self.device, pinned, strict=True)
            if source is not None
        ]
        self._uploaded = torch.cuda.Event()

    @property
    def host(self) -> Batch:
        """The arrays to fill; waits until the upload of their last contents is over."""
        if self._uploaded is not None:
            self._uploaded.synchronize()
        return self._host

    def upload(self) -> None:
        """Set the copy to the device going; nothing to do where the memory is shared."""
        for to, source in self._copies:
            to.copy_(source, non_blocking=True)
        if self._uploaded is not None:
            # The current device may be another one than the batch's.
            self._uploaded.record(torch.cuda.current_stream(self.device.obs.device))

    @staticmethod
    def download(tensor: torch.Tensor) -> np.ndarray:
        """Bring a device tensor to the host; this waits for the device."""
        return tensor.cpu().numpy()
