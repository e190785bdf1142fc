"""CapturedPolicy: greedy actions by a captured or compiled forward pass."""

from collections.abc import Callable, Sequence
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
    """Inputs of a pass: obs [N, *] as stored, mask bool[N, A] or None, noise [N, D] or None.

    In place of obs, slots int64[N] of a replay on the device.
    """

    obs: Tensor | None
    slots: Tensor | None
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
        observations: Gathers observations that a replay has on the device, from int64[N] slots.
    """

    def __init__(
        self,
        network: nn.Module,
        value: Value,
        device: torch.device,
        capture: Capture,
        streams: DeviceStreams | None = None,
        observations: Callable[[Tensor], Tensor] | None = None,
    ):
        self._network, self._value, self._observations = network, value, observations
        self._streams = streams or streams_for(device)
        self._best = capture.piece(self._best_of)
        self._run, self._prepare = capture.whole(self._pass, nullcontext, "acting")
        self._kinds: dict[tuple, _Buffers] = {}

    def __call__(
        self,
        obs: np.ndarray,
        mask: np.ndarray | None,
        draw: Draw,
        slots: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Returns int64[N] greedy actions for obs [N, *], or None after too many input shapes.

        mask [N, A] is nonzero where an action is allowed. Observations that a replay has on the
        device, in slots int64[N], are not uploaded.
        """
        kind = (len(obs), slots is None, mask is None, draw.noise is None)
        buffers = self._kinds.get(kind)
        if buffers is None:
            if len(self._kinds) == _MOST_KINDS:
                return None
            same = not self._kinds or any(len(obs) == lanes for lanes, *_ in self._kinds)
            buffers = _Buffers(self._streams, obs, slots, mask, draw.noise)
            self._kinds[kind] = buffers
            if same:  # other sizes, as in evaluation, are captured and reported at their first use
                self._prepare((buffers.inputs,))
        buffers.fill(obs, slots, mask, draw.noise)
        return buffers.download(self._run((buffers.inputs,)))

    def _pass(self, inputs: Sequence[_Inputs]) -> Tensor:
        return self._best(*inputs[0])

    def _best_of(
        self, obs: Tensor | None, slots: Tensor | None, mask: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        with torch.no_grad():
            if slots is not None and self._observations is not None:
                obs = self._observations(slots)
            values = self._value.expected(self._network(obs, Draw(noise)))
            if mask is not None:
                values = values.masked_fill(~mask, -torch.inf)
            return values.argmax(1)


class _Buffers:
    """Inputs and outputs of a pass for one input shape, in place on device and host."""

    def __init__(
        self,
        streams: DeviceStreams,
        obs: np.ndarray,
        slots: np.ndarray | None,
        mask: np.ndarray | None,
        noise: Tensor | None,
    ):
        self._streams, self._event = streams, streams.event()
        self._pairs = {
            name: _pair(streams, np.zeros_like(array))
            for name, array in _uploaded(obs, slots, mask).items()
        }
        there = {name: on_device for name, (_, on_device) in self._pairs.items()}
        self.inputs = _Inputs(
            there.get("obs"),
            there.get("slots"),
            there.get("mask"),
            None if noise is None else noise.clone(),
        )
        self._chosen = streams.host_bytes(8 * len(obs)).view(torch.int64)

    def fill(
        self,
        obs: np.ndarray,
        slots: np.ndarray | None,
        mask: np.ndarray | None,
        noise: Tensor | None,
    ) -> None:
        for name, array in _uploaded(obs, slots, mask).items():
            host, on_device = self._pairs[name]
            np.copyto(host.numpy(), array, casting="unsafe")
            on_device.copy_(host, non_blocking=True)  # download() waits for this copy too
        if self.inputs.noise is not None and noise is not None:
            self.inputs.noise.copy_(noise)

    def download(self, chosen: Tensor) -> np.ndarray:
        """Returns the actions on the host; waits for the device."""
        self._streams.download(self._chosen, chosen, self._event)
        self._streams.wait(self._event)
        return self._chosen.numpy().copy()


def _uploaded(
    obs: np.ndarray, slots: np.ndarray | None, mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns what a pass needs from the host."""
    found = {"obs": obs} if slots is None else {"slots": slots}
    return found if mask is None else found | {"mask": np.asarray(mask, np.bool_)}


def _pair(streams: DeviceStreams, array: np.ndarray) -> tuple[Tensor, Tensor]:
    """Allocates host and device memory with the shape and dtype of an array."""
    like = torch.from_numpy(array)
    host, there = streams.host_bytes(like.nbytes), streams.device_bytes(like.nbytes)
    return host.view(like.dtype).view(like.shape), there.view(like.dtype).view(like.shape)
