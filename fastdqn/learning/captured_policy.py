"""CapturedPolicy: greedy actions by a captured or compiled forward pass."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.learning.cuda_streams import DeviceStreams, streams_for
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import Value

# Input shapes to capture: a run has few numbers of environments, with and without masks and noise.
_MOST_KINDS = 8


class _Inputs(NamedTuple):
    """Inputs of a pass: obs [N, *] as stored, mask bool[N, A] or None, noise [N, D] or None."""

    obs: Tensor
    mask: Tensor | None
    noise: Tensor | None


class CapturedPolicy:
    """Selects greedy actions with the current weights, which it shares with the learner.

    Args:
        network: The network in eval mode, over the learner's memory.
        value: The meaning of its output.
        device: The device.
        capture: Runs the forward pass.
        streams: Streams of the device; None creates them.
    """

    def __init__(
        self,
        network: nn.Module,
        value: Value,
        device: torch.device,
        capture: Capture,
        streams: DeviceStreams | None = None,
    ):
        self._network, self._value = network, value
        self._streams = streams or streams_for(device)
        self._best = capture.piece(self._best_of)
        self._run, self._prepare = capture.whole(self._pass, nullcontext, "acting")
        self._kinds: dict[tuple, _Buffers] = {}

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None, draw: Draw) -> np.ndarray | None:
        """Returns int64[N] greedy actions for obs [N, *], or None after too many input shapes.

        mask [N, A] is nonzero where an action is allowed.
        """
        kind = (len(obs), mask is None, draw.noise is None)
        buffers = self._kinds.get(kind)
        if buffers is None:
            if len(self._kinds) == _MOST_KINDS:
                return None
            same = not self._kinds or any(len(obs) == lanes for lanes, _, _ in self._kinds)
            buffers = self._kinds[kind] = _Buffers(self._streams, obs, mask, draw.noise)
            if same:  # other sizes, as in evaluation, are captured and reported at their first use
                self._prepare((buffers.inputs,))
        buffers.fill(obs, mask, draw.noise)
        return buffers.download(self._run((buffers.inputs,)))

    def _pass(self, inputs: Sequence[_Inputs]) -> Tensor:
        return self._best(*inputs[0])

    def _best_of(self, obs: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            values = self._value.expected(self._network(obs, Draw(noise)))
            if mask is not None:
                values = values.masked_fill(~mask, -torch.inf)
            return values.argmax(1)


class _Buffers:
    """Inputs and outputs of a pass for one input shape, in place on device and host."""

    def __init__(
        self, streams: DeviceStreams, obs: np.ndarray, mask: np.ndarray | None, noise: Tensor | None
    ):
        self._streams, self._event = streams, streams.event()
        arrays = [np.zeros(np.shape(obs), obs.dtype)]
        arrays += [] if mask is None else [np.zeros(np.shape(mask), np.bool_)]
        self._pairs = [_pair(streams, array) for array in arrays]
        there = [on_device for _, on_device in self._pairs]
        self.inputs = _Inputs(
            there[0], None if mask is None else there[1], None if noise is None else noise.clone()
        )
        self._chosen = streams.host_bytes(8 * len(obs)).view(torch.int64)

    def fill(self, obs: np.ndarray, mask: np.ndarray | None, noise: Tensor | None) -> None:
        given = [obs] if mask is None else [obs, mask]
        for (host, on_device), array in zip(self._pairs, given, strict=True):
            np.copyto(host.numpy(), array, casting="unsafe")
            on_device.copy_(host, non_blocking=True)  # download() waits for this copy too
        if self.inputs.noise is not None and noise is not None:
            self.inputs.noise.copy_(noise)

    def download(self, chosen: Tensor) -> np.ndarray:
        """Returns the actions on the host; waits for the device."""
        self._streams.download(self._chosen, chosen, self._event)
        self._streams.wait(self._event)
        return self._chosen.numpy().copy()


def _pair(streams: DeviceStreams, array: np.ndarray) -> tuple[Tensor, Tensor]:
    """Allocates host and device memory with the shape and dtype of an array."""
    like = torch.from_numpy(array)
    host, there = streams.host_bytes(like.nbytes), streams.device_bytes(like.nbytes)
    return host.view(like.dtype).view(like.shape), there.view(like.dtype).view(like.shape)
